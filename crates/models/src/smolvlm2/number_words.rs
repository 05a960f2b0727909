//! Cardinal numbers in English words, as the package `num2words` writes them in the prompt of a video.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [(u64, &str); 6] = [
    (1_000_000_000_000_000_000, "quintillion"),
    (1_000_000_000_000_000, "quadrillion"),
    (1_000_000_000_000, "trillion"),
    (1_000_000_000, "billion"),
    (1_000_000, "million"),
    (1_000, "thousand"),
];

/// `42` as "forty-two", `1205` as "one thousand, two hundred and five".
pub(super) fn cardinal(number: u64) -> String {
    if let Some(&(scale, name)) = SCALES.iter().find(|&&(scale, _)| number >= scale) {
        let head = format!("{} {name}", cardinal(number / scale));
        return match number % scale {
            0 => head,
            rest @ 1..100 => format!("{head} and {}", cardinal(rest)),
            rest => format!("{head}, {}", cardinal(rest)),
        };
    }
    match number {
        0..20 => SMALL[number as usize].to_owned(),
        20..100 => match number % 10 {
            0 => TENS[number as usize / 10].to_owned(),
            unit => format!("{}-{}", TENS[number as usize / 10], SMALL[unit as usize]),
        },
        _ => match number % 100 {
            0 => format!("{} hundred", SMALL[number as usize / 100]),
            rest => format!("{} hundred and {}", SMALL[number as usize / 100], cardinal(rest)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_words() {
        for (number, words) in [
            (0, "zero"),
            (13, "thirteen"),
            (64, "sixty-four"),
            (100, "one hundred"),
            (110, "one hundred and ten"),
            (1_001, "one thousand and one"),
            (1_205, "one thousand, two hundred and five"),
            (90_000, "ninety thousand"),
            (1_000_100, "one million, one hundred"),
        ] {
            assert_eq!(cardinal(number), words);
        }
        assert!(cardinal(u64::MAX).starts_with("eighteen quintillion, four hundred and forty-six quadrillion"));
    }
}
