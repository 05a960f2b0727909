//! The one error type of this crate.

use std::path::PathBuf;

use sango_kernels::KernelError;

use crate::DType;

/// `Result` with [`TensorError`].
pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// Everything that can go wrong in an op or while reading and writing weights.
///
/// Messages name the op or the file and tensor, what was expected and what was found, so that they can be shown to
/// a user as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Shapes do not fit the op.
    #[error("{op}: {detail}")]
    Shape {
        /// Name of the op, as in PyTorch.
        op: &'static str,
        /// What does not fit.
        detail: String,
    },
    /// The op does not work on this element type.
    #[error("{op}: expected a tensor of {expected}, found {found}")]
    DType {
        /// Name of the op.
        op: &'static str,
        /// Element type the op works on.
        expected: DType,
        /// Element type of the tensor it was given.
        found: DType,
    },
    /// A dimension that the tensor does not have.
    #[error("{op}: dimension {dim} is out of range for shape {shape:?}")]
    Dim {
        /// Name of the op.
        op: &'static str,
        /// The dimension as given; negative counts from the end.
        dim: isize,
        /// Shape of the tensor.
        shape: Vec<usize>,
    },
    /// An index beyond the table it selects from (a token id beyond the vocabulary, for example).
    #[error("{op}: index {index} is out of range for {len} rows")]
    Index {
        /// Name of the op.
        op: &'static str,
        /// The index.
        index: i64,
        /// Number of rows that can be selected.
        len: usize,
    },
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// None of the files that could hold these weights exists.
    #[error("no weights in {}: looked for {looked_for}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// File names that would have been read.
        looked_for: String,
    },
    /// A safetensors file is damaged or is not a safetensors file.
    #[error("{}: not a valid safetensors file ({detail}); it may be truncated or damaged, so download or export it again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A `*.safetensors.index.json` is damaged or names files it must not name.
    #[error("{}: not a valid weight index ({detail})", path.display())]
    WeightIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file has no tensor of this name.
    #[error("{}: no tensor `{key}`{}", path.display(), suggestion.as_ref().map(|s| format!("; the nearest name is `{s}`")).unwrap_or_default())]
    MissingTensor {
        /// File (or index) that was searched.
        path: PathBuf,
        /// The full name.
        key: String,
        /// The most similar name that does exist.
        suggestion: Option<String>,
    },
    /// The tensor has another shape than the configuration asks for.
    #[error("{}: tensor `{key}` has shape {found:?}, but the configuration asks for {expected:?}", path.display())]
    WeightShape {
        /// The file.
        path: PathBuf,
        /// The full name.
        key: String,
        /// Shape asked for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The tensor has an element type that cannot be used here.
    #[error("{}: tensor `{key}` has element type {found}, expected {expected}", path.display())]
    WeightDType {
        /// The file.
        path: PathBuf,
        /// The full name.
        key: String,
        /// What would have been accepted.
        expected: &'static str,
        /// Element type in the file, in the words of safetensors.
        found: String,
    },
    /// Two tensors of a checkpoint are the same tensor of a model.
    #[error("{}: both `{first}` and `{second}` are `{name}`", path.display())]
    Renamed {
        /// The file (or index).
        path: PathBuf,
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// What both would be called.
        name: String,
    },
    /// Tensors are left over that the model did not ask for.
    #[error("{}: {count} tensors are not part of this model, the first is `{first}`", path.display())]
    UnusedTensors {
        /// The file (or index).
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first, in alphabetical order.
        first: String,
    },
    /// Tensors could not be encoded as safetensors.
    #[error("{}: cannot encode tensors ({detail})", path.display())]
    Encode {
        /// The file that was to be written.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl TensorError {
    pub(crate) fn shape(op: &'static str, detail: impl Into<String>) -> Self {
        Self::Shape { op, detail: detail.into() }
    }
}
