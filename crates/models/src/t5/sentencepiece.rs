//! Reading `spiece.model`, a sentencepiece model in protocol buffers, as far as T5 needs it.
//!
//! Field numbers are those of sentencepiece's `sentencepiece_model.proto`.

/// A piece of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Log probability.
    pub(super) score: f32,
    /// Whether it is a control symbol (3) or a user's own (4): those are found in a text before anything else.
    pub(super) kind: PieceKind,
}

/// What a piece stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Control,
    UserDefined,
}

/// A `ModelProto`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct SentencePieceModel {
    pub(super) pieces: Vec<Piece>,
    /// The compiled normalisation rules; empty where there are none.
    pub(super) precompiled_charsmap: Vec<u8>,
}

/// The vocabulary of the largest multilingual models is a quarter of this.
const MAX_PIECES: usize = 1 << 20;
const UNIGRAM: u64 = 1;

impl SentencePieceModel {
    /// Reads the bytes of a `spiece.model`; the error says what is wrong with them.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
                (2, Value::Bytes(trainer)) => check_trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        if let (2, Value::Bytes(charsmap)) = field? {
                            model.precompiled_charsmap = charsmap.to_vec();
                        }
                    }
                }
                _ => {}
            }
            if model.pieces.len() > MAX_PIECES {
                return Err(format!("has more than {MAX_PIECES} pieces"));
            }
        }
        if model.pieces.is_empty() {
            return Err("has no pieces; it is no sentencepiece model".into());
        }
        Ok(model)
    }
}

fn parse_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => {
                piece.text = String::from_utf8(text.to_vec()).map_err(|_| "has a piece that is not UTF-8")?;
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Varint(kind)) => {
                piece.kind = match kind {
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    _ => PieceKind::Normal,
                };
            }
            _ => {}
        }
    }
    if piece.score.is_nan() {
        return Err(format!("has no number as the score of `{}`", piece.text));
    }
    Ok(piece)
}

fn check_trainer(bytes: &[u8]) -> Result<(), String> {
    for field in Fields(bytes) {
        if let (3, Value::Varint(kind)) = field?
            && kind != UNIGRAM
        {
            return Err(format!("has model_type {kind}; T5's is a unigram model (1)"));
        }
    }
    Ok(())
}

/// The value of a field, as far as its wire type tells.
enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("ends in the middle of a field; it may be cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("has a number of more than 64 bits".into())
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.take(len)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            other => return Err(format!("has a field of wire type {other}; it is no sentencepiece model")),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ModelProto { pieces: [{ "▁a", -1.5, CONTROL }], trainer_spec: { model_type }, normalizer_spec: { charsmap: [7] } }`.
    fn model(model_type: u8) -> Vec<u8> {
        let piece = [&[10, 4][..], "▁a".as_bytes(), &[21], &(-1.5f32).to_le_bytes(), &[24, 3]].concat();
        [&[10, piece.len() as u8], &piece[..], &[18, 2, 24, model_type], &[26, 3, 18, 1, 7]].concat()
    }

    #[test]
    fn fields_are_found_by_number() {
        let parsed = SentencePieceModel::parse(&model(1)).expect("a sound model");
        assert_eq!(parsed.pieces, [Piece { text: "▁a".into(), score: -1.5, kind: PieceKind::Control }]);
        assert_eq!(parsed.precompiled_charsmap, [7]);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        assert!(SentencePieceModel::parse(&model(2)).expect_err("BPE").contains("model_type 2"));
        assert!(SentencePieceModel::parse(b"").expect_err("nothing").contains("no pieces"));
        let whole = model(1);
        for len in 1..whole.len() {
            // Cutting between two fields leaves a smaller sound model.
            let _ = SentencePieceModel::parse(&whole[..len]);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                let _ = SentencePieceModel::parse(&damaged);
            }
        }
        let endless = [10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(SentencePieceModel::parse(&endless).is_err());
        assert!(SentencePieceModel::parse(&[0xff; 32]).is_err());
    }
}
