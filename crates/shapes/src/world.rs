//! The values that a scene is made of: shapes, colours, sizes, places, backgrounds and motions.

use serde::{Deserialize, Serialize};

/// Declares a closed set of named values with `ALL`, `COUNT`, `index`, `name`, `from_name` and `Display`.
macro_rules! named_values {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The number of values.
            pub const COUNT: usize = Self::ALL.len();

            /// Position in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The words that captions use.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The value with exactly this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named_values! {
    /// What the object is. Chosen to stay apart after an 8× lossy downsampling at 64 px.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square with upright sides.
        Square = "square",
        /// An equilateral triangle that points up.
        Triangle = "triangle",
        /// A five-pointed star, one point up.
        Star = "star",
        /// A plus sign.
        Cross = "cross",
        /// A disc with a round hole of half its radius.
        Ring = "ring",
    }
}

named_values! {
    /// The object's colour.
    Colour {
        /// Red.
        Red = "red",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Yellow.
        Yellow = "yellow",
        /// Purple.
        Purple = "purple",
        /// Cyan.
        Cyan = "cyan",
    }
}

named_values! {
    /// How large the object is.
    Size {
        /// About a third of the picture across.
        Small = "small",
        /// About half of the picture across.
        Large = "large",
    }
}

named_values! {
    /// The plain colour behind the object.
    Background {
        /// White.
        White = "white",
        /// Black.
        Black = "black",
        /// Mid gray.
        Gray = "gray",
        /// Blue, the same as [`Colour::Blue`].
        Blue = "blue",
    }
}

named_values! {
    /// Where the object is, when the prompt says so.
    Place {
        /// In the middle.
        Center = "center",
        /// Upper left corner.
        TopLeft = "top left",
        /// Upper right corner.
        TopRight = "top right",
        /// Lower left corner.
        BottomLeft = "bottom left",
        /// Lower right corner.
        BottomRight = "bottom right",
    }
}

named_values! {
    /// What the object does in a clip.
    Motion {
        /// Moves left.
        Left = "moves left",
        /// Moves right.
        Right = "moves right",
        /// Moves up.
        Up = "moves up",
        /// Moves down.
        Down = "moves down",
        /// Turns around its centre.
        Spins = "spins",
        /// Becomes larger.
        Grows = "grows",
        /// Becomes smaller.
        Shrinks = "shrinks",
    }
}

impl Colour {
    /// sRGB, 0–255.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [230, 20, 20],
            Self::Green => [0, 190, 40],
            Self::Blue => [20, 40, 240],
            Self::Yellow => [255, 230, 0],
            Self::Purple => [200, 20, 230],
            Self::Cyan => [0, 220, 240],
        }
    }
}

impl Background {
    /// sRGB, 0–255.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::White => [250, 250, 250],
            Self::Black => [5, 5, 5],
            Self::Gray => [128, 128, 128],
            Self::Blue => Colour::Blue.rgb(),
        }
    }
}

impl Size {
    /// Radius as a fraction of the picture's side, before jitter.
    pub const fn radius(self) -> f32 {
        match self {
            Self::Small => 10.5 / 64.0,
            Self::Large => 17.0 / 64.0,
        }
    }

    /// How far a corner place lies from the middle on each axis, as a fraction of the picture's side.
    pub const fn corner_offset(self) -> f32 {
        match self {
            Self::Small => 15.0 / 64.0,
            Self::Large => 10.5 / 64.0,
        }
    }
}

impl Place {
    /// Direction from the middle of the picture, −1, 0 or 1 on x (right) and y (down).
    pub const fn direction(self) -> [f32; 2] {
        match self {
            Self::Center => [0.0, 0.0],
            Self::TopLeft => [-1.0, -1.0],
            Self::TopRight => [1.0, -1.0],
            Self::BottomLeft => [-1.0, 1.0],
            Self::BottomRight => [1.0, 1.0],
        }
    }

    /// The words with their preposition: "in the center", "at the top left".
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Center => "in the center",
            Self::TopLeft => "at the top left",
            Self::TopRight => "at the top right",
            Self::BottomLeft => "at the bottom left",
            Self::BottomRight => "at the bottom right",
        }
    }
}

impl Shape {
    /// Whether turning the shape can be seen.
    pub const fn can_spin(self) -> bool {
        !matches!(self, Self::Circle | Self::Ring)
    }
}

impl Motion {
    /// Whether this motion can be seen on this shape (a circle that spins looks still).
    pub const fn suits(self, shape: Shape) -> bool {
        !matches!(self, Self::Spins) || shape.can_spin()
    }
}

/// A combination: the four values that every scene has and that the split is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attributes {
    /// What the object is.
    pub shape: Shape,
    /// The object's colour.
    pub colour: Colour,
    /// How large the object is.
    pub size: Size,
    /// What is behind it.
    pub background: Background,
}

impl Attributes {
    /// Whether the object can be seen: blue on blue cannot.
    pub fn is_visible(&self) -> bool {
        self.colour.rgb() != self.background.rgb()
    }

    /// Every visible combination (276), in a fixed order.
    pub fn all() -> impl Iterator<Item = Self> {
        let sizes_and_backgrounds =
            || Size::ALL.iter().flat_map(|&size| Background::ALL.iter().map(move |&background| (size, background)));
        Shape::ALL
            .iter()
            .flat_map(|&shape| Colour::ALL.iter().map(move |&colour| (shape, colour)))
            .flat_map(move |(shape, colour)| {
                sizes_and_backgrounds().map(move |(size, background)| Self { shape, colour, size, background })
            })
            .filter(Self::is_visible)
    }
}
