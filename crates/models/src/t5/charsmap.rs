//! Checking sentencepiece's compiled normalisation rules before they are used.
//!
//! `tokenizers` reads them without looking at bounds: a trie whose nodes point anywhere would end the program. The format is
//! the length of a double array in bytes, the array of 32-bit units, and the replacements, each ended by a zero.

/// Whether every place that a text can lead to lies inside; the error says what does not.
pub(super) fn check(charsmap: &[u8]) -> Result<(), String> {
    let (length, rest) = charsmap.split_first_chunk::<4>().ok_or("is too short")?;
    let length = u32::from_le_bytes(*length) as usize;
    if !length.is_multiple_of(4) || length == 0 || length > rest.len() {
        return Err(format!("claims a trie of {length} bytes where {} follow", rest.len()));
    }
    let (trie, replacements) = rest.split_at(length);
    let units: Vec<u32> =
        trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
    let replacements = std::str::from_utf8(replacements).map_err(|_| "has replacements that are not UTF-8")?;
    for (at, &unit) in units.iter().enumerate() {
        // Values are read, but no text leads on from one.
        if unit >> 31 == 1 {
            continue;
        }
        let children = at ^ (((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6));
        if children | 0xff >= units.len() {
            return Err(format!("has a node at {at} whose children lie outside"));
        }
        let has_value = (unit >> 8) & 1 == 1;
        let value = (units[children] & 0x7fff_ffff) as usize;
        if has_value && !replacements.is_char_boundary(value) {
            return Err(format!("has a node at {at} whose replacement lies outside"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charsmap(units: &[u32], replacements: &str) -> Vec<u8> {
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes()[..], &trie, replacements.as_bytes()].concat()
    }

    #[test]
    fn only_what_stays_inside_passes() {
        assert_eq!(check(&charsmap(&[0; 256], "é\0")), Ok(()));
        assert!(check(&charsmap(&[1 << 20; 256], "")).expect_err("far away").contains("children"));
        assert!(check(&charsmap(&[0; 200], "")).expect_err("an incomplete block").contains("children"));
        let mut units = [0; 256];
        // Node 5 has a value, which stands where its children begin: at 5 itself, so 5 + 256 is read as one.
        units[5] = 0x105;
        assert!(check(&charsmap(&units, "é\0")).expect_err("beyond the replacements").contains("replacement"));
        assert!(check(&[]).is_err() && check(&[255; 4]).is_err() && check(&[0; 4]).is_err());
    }
}
