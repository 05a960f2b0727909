//! The procedural world of shapes: scenes, captions, splits and the oracle.
//!
//! A [`Scene`] is one coloured shape on a plain background. It is drawn by [`render()`], described by [`Prompt::caption`],
//! and read back from pixels by the oracle, so a model trained on this world can be judged exactly.
//! Everything random comes from a seed: the same seed gives the same bytes. A [`Clip`] lets the object do one thing, and a
//! [`story::Story`] is a clip with more to tell, with questions about it and a judge of their answers.
//!
//! ```
//! use sango_shapes::{Prompt, Scene, render, rng};
//!
//! let prompt = Prompt::parse("a large red circle on a blue background")?;
//! let scene = Scene::for_prompt(&prompt, &mut rng(7));
//! let rgb = render(&scene, 64);
//! assert_eq!(rgb.len(), 64 * 64 * 3);
//! # Ok::<(), sango_shapes::PromptError>(())
//! ```
#![forbid(unsafe_code)]

mod clip;
mod geometry;
mod grammar;
pub mod oracle;
mod parse;
mod render;
mod scene;
pub mod split;
pub mod story;
mod world;

pub use clip::Clip;
pub use grammar::{Prompt, VOCABULARY};
pub use parse::{ParsedPrompt, PromptError};
pub use render::{object_coverage, render, render_objects};
pub use scene::{Object, Scene, rng};
pub use world::{Attributes, Background, Colour, Motion, Place, Shape, Size};
