//! Reading checkpoints: memory-mapped safetensors files, whole or sharded, with names, shapes and types checked.

mod file;
mod index;
mod patch;
mod rename;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Result, TensorError};
use crate::{DType, Tensor};
use file::WeightFile;
use patch::Patches;
pub use patch::{LowRank, Patch};
pub(crate) use view::{Floats, WeightView};

/// The tensors of a checkpoint, seen from one place in its tree of names.
///
/// Cloning and descending ([`Weights::pp`]) are cheap. Nothing is read until a tensor is asked for, and the pages of
/// the file are given back to the system as soon as a tensor has been converted or packed.
///
/// ```no_run
/// use sango_tensor::{Weights, nn};
/// # fn main() -> Result<(), sango_tensor::TensorError> {
/// let weights = Weights::open("models/amused-256/transformer", "diffusion_pytorch_model")?;
/// let project = nn::Linear::load(&weights.pp("project_to_hidden"), 768, 1024, false)?;
/// # Ok(()) }
/// ```
///
/// The file must not be changed while it is open, which no program can check for a mapped file.
#[derive(Clone)]
pub struct Weights {
    source: Arc<Source>,
    prefix: String,
    compute_dtype: DType,
    int8_linears: bool,
    patches: Patches,
}

struct Source {
    /// What messages call this checkpoint: the file or the index.
    path: PathBuf,
    files: Arc<Vec<WeightFile>>,
    names: BTreeMap<String, Place>,
    used: Mutex<BTreeSet<String>>,
}

/// Where the tensor of a name is.
#[derive(Clone)]
struct Place {
    /// Position in `files`.
    file: usize,
    /// What the file calls it, where that is another name.
    key: Option<String>,
}

impl Source {
    /// The tensor `name` in place.
    fn view(&self, name: &str) -> Option<WeightView<'_>> {
        let (name, place) = self.names.get_key_value(name)?;
        self.files[place.file].view(place.key.as_ref().unwrap_or(name))
    }

    /// What the file calls the tensor `name`.
    fn key_in_file<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).and_then(|place| place.key.as_deref()).unwrap_or(name)
    }
}

impl Weights {
    /// Opens `dir/NAME.safetensors`, or the shards that `dir/NAME.safetensors.index.json` lists, or the `fp16` variant
    /// of either.
    ///
    /// # Errors
    /// [`TensorError::NoWeights`] when there is none of these, and an error naming the file for damaged ones.
    pub fn open(dir: impl AsRef<Path>, name: &str) -> Result<Self> {
        let dir = dir.as_ref();
        let candidates = [
            format!("{name}.safetensors"),
            format!("{name}.safetensors.index.json"),
            format!("{name}.fp16.safetensors"),
            format!("{name}.safetensors.index.fp16.json"),
        ];
        for candidate in &candidates {
            let path = dir.join(candidate);
            if path.is_file() {
                return Self::open_file(&path);
            }
        }
        Err(TensorError::NoWeights { dir: dir.to_owned(), looked_for: candidates.join(", ") })
    }

    /// Opens one safetensors file, or a sharded checkpoint by its `*.json` index.
    ///
    /// # Errors
    /// [`TensorError::Io`], [`TensorError::Header`] or [`TensorError::WeightIndex`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.extension().is_some_and(|e| e == "json") {
            let (files, names) = index::open_shards(path)?;
            return Ok(Self::new(path.to_owned(), files, names));
        }
        Ok(Self::of_one(WeightFile::open(path)?))
    }

    /// Reads a safetensors file that is already in memory; `name` is what messages call it.
    ///
    /// # Errors
    /// [`TensorError::Header`].
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        Ok(Self::of_one(WeightFile::from_bytes(bytes, Path::new(name))?))
    }

    fn of_one(file: WeightFile) -> Self {
        let names = file.names().map(|name| (name.to_owned(), 0)).collect();
        Self::new(file.path().to_owned(), vec![file], names)
    }

    fn new(path: PathBuf, files: Vec<WeightFile>, names: BTreeMap<String, usize>) -> Self {
        let names = names.into_iter().map(|(name, file)| (name, Place { file, key: None })).collect();
        let source = Source { path, files: Arc::new(files), names, used: Mutex::default() };
        Self {
            source: Arc::new(source),
            prefix: String::new(),
            compute_dtype: DType::F32,
            int8_linears: false,
            patches: Patches::default(),
        }
    }

    /// The tensors whose names continue `segment.`; `segment` may be a number or a dotted path.
    pub fn pp(&self, segment: impl Display) -> Self {
        Self { prefix: format!("{}{segment}.", self.prefix), ..self.clone() }
    }

    /// The type in which layers loaded from here keep and multiply their matrices: `F32` (the default) or `BF16`.
    pub fn compute_dtype(&self) -> DType {
        self.compute_dtype
    }

    /// The same tensors for layers that compute in `dtype`; anything but `BF16` means `F32`.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        let compute_dtype = if dtype == DType::BF16 { DType::BF16 } else { DType::F32 };
        Self { compute_dtype, int8_linears: false, ..self.clone() }
    }

    /// The same tensors as with `BF16`, but for linear layers that keep their matrices in int8 with one scale per output
    /// (activations are not quantised): half the memory to read where a few rows at a time are multiplied.
    pub fn with_int8_linears(&self) -> Self {
        Self { compute_dtype: DType::BF16, int8_linears: true, ..self.clone() }
    }

    /// Whether linear layers loaded from here keep their matrices in int8.
    pub fn int8_linears(&self) -> bool {
        self.int8_linears
    }

    /// The names of all tensors from here down, without the part that led here, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let start = self.source.names.range(self.prefix.clone()..);
        start.map_while(|(name, _)| name.strip_prefix(self.prefix.as_str()))
    }

    /// Whether there is a tensor `name` here.
    pub fn contains(&self, name: &str) -> bool {
        self.source.names.contains_key(&self.key(name))
    }

    /// Shape of the tensor `name`.
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`].
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.view(name)?.shape().to_vec())
    }

    /// Checks that there is a tensor `name` of this shape, without reading its elements.
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`] or [`TensorError::WeightShape`].
    pub fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.checked_view(name, shape).map(drop)
    }

    /// The element type in which the file stores the tensor `name`, in the words of safetensors (`F32`, `BF16`,
    /// `F8_E4M3`).
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`].
    pub fn stored_dtype(&self, name: &str) -> Result<String> {
        Ok(self.view(name)?.stored_dtype())
    }

    /// The tensor `name` in the type it is stored in, which must have this shape. (Whole numbers of any width become
    /// `I64`, booleans `U8`.)
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`], [`TensorError::WeightShape`], or [`TensorError::WeightDType`] for types this
    /// crate does not know.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.checked_view(name, shape)?.to_tensor()
    }

    /// The tensor `name` as `F32`, whatever float type it is stored in.
    ///
    /// # Errors
    /// As [`Weights::get`], and [`TensorError::WeightDType`] when it does not hold floats.
    pub fn get_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.checked_view(name, shape)?.to_f32_tensor()
    }

    /// The bytes of the tensor `name`, in place, after its shape was checked.
    pub(crate) fn checked_view(&self, name: &str, shape: &[usize]) -> Result<WeightView<'_>> {
        let view = self.view(name)?;
        if view.shape() != shape {
            return Err(TensorError::WeightShape {
                path: view.path().to_owned(),
                key: view.key().to_owned(),
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        Ok(view)
    }

    fn view(&self, name: &str) -> Result<WeightView<'_>> {
        let key = self.key(name);
        let Some(view) = self.source.view(&key) else {
            return Err(self.missing(key));
        };
        let view = view.patched(self.patches.get(&key));
        self.source.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        Ok(view)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn missing(&self, key: String) -> TensorError {
        let suggestion = self
            .source
            .names
            .keys()
            .map(|name| (edit_distance(name.as_bytes(), key.as_bytes()), name))
            .min()
            .filter(|(distance, _)| *distance <= key.len() / 3)
            .map(|(_, name)| name.clone());
        TensorError::MissingTensor { path: self.source.path.clone(), key, suggestion }
    }

    /// The full names of tensors from here down that nothing has asked for yet.
    pub fn unused(&self) -> Vec<String> {
        let used = self.source.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.names().map(|name| self.key(name)).filter(|key| !used.contains(key)).collect()
    }

    /// Checks that a model has asked for every tensor from here down, except names that `ignore` accepts (buffers
    /// such as `position_ids` that some versions save).
    ///
    /// # Errors
    /// [`TensorError::UnusedTensors`].
    pub fn check_all_used(&self, ignore: impl Fn(&str) -> bool) -> Result<()> {
        let mut unused = self.unused();
        unused.retain(|name| !ignore(name));
        match unused.first() {
            None => Ok(()),
            Some(first) => Err(TensorError::UnusedTensors {
                path: self.source.path.clone(),
                count: unused.len(),
                first: self.source.key_in_file(first).to_owned(),
            }),
        }
    }

    /// Number of parameters in the whole checkpoint (elements of all tensors).
    pub fn parameter_count(&self) -> usize {
        let count = |name| self.source.view(name).map_or(0, |view| view.shape().iter().product());
        self.source.names.keys().map(|name| count(name)).sum()
    }

    /// The free-form `__metadata__` entry `key`, where a file has one.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.source.files.iter().find_map(|file| file.metadata(key))
    }
}

/// The number of single-character edits between two names (Levenshtein), for "did you mean".
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
