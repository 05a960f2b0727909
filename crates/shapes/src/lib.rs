//! The procedural world of shapes: scenes, captions, splits and the oracle.
