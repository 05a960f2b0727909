//! From terms to JSON and the other things that functions take, within limits.

use rustler::{Binary, LocalPid, MapIterator, Resource, ResourceArc, Term, TermType};
use sango_jobs::{ErrorKind, JobError, JobId, JobKind, Submission, Upload};
use serde_json::{Map, Number, Value};

use crate::atoms;
use crate::budget::{Budget, MAX_TERMS};

/// How deep maps and lists may lie in one another.
const MAX_DEPTH: u32 = 16;
/// How long a line can be arranged: as long as [`Options`](crate::options::Options) let it grow.
const MAX_IDS: usize = 1_000_000;

/// A map, lists and scalars as JSON. Keys are binaries or atoms, atoms other than `nil` and booleans are text.
///
/// # Errors
/// `invalid_request` for what has no JSON (tuples, pids, improper lists, text that is not UTF-8, integers over 64 bits) and
/// for a key that is there twice; `too_large`.
pub(crate) fn json(term: Term<'_>) -> Result<Value, JobError> {
    value(term, 0, &mut Budget::new())
}

/// The request of a job: JSON whose `image` and `mask` may also be `{:bytes, binary}`, and whose `media` may be that or
/// `{:file, path}`, or a list of such and of what JSON has.
///
/// # Errors
/// As [`json`] and [`Submission::from_json`].
pub(crate) fn submission(term: Term<'_>) -> Result<Submission, JobError> {
    let budget = &mut Budget::new();
    let (mut image, mut mask, mut media) = (None, None, Vec::new());
    let mut request = Map::new();
    for (key, term) in fields(term, budget)? {
        if key == "media" {
            let mut json = Vec::new();
            let one = [term];
            let items = if term.is_list() { list(term, MAX_TERMS)? } else { one.to_vec() };
            for item in items {
                match upload(item, budget).map_err(|error| within_field(&key, error))? {
                    Some(upload) => media.push(upload),
                    None => json.push(value(item, 2, budget).map_err(|error| within_field(&key, error))?),
                }
            }
            if json != [Value::Null] {
                request.insert(key, Value::Array(json));
            }
            continue;
        }
        let raw = if key == "image" || key == "mask" { bytes(term, budget)? } else { None };
        match (key.as_str(), raw) {
            ("image", Some(bytes)) => image = Some(bytes),
            (_, Some(bytes)) => mask = Some(bytes),
            (_, None) => {
                let value = value(term, 1, budget).map_err(|error| within_field(&key, error))?;
                request.insert(key, value);
            }
        }
    }
    let mut submission = Submission::from_json(Value::Object(request))?;
    submission.image = image.or(submission.image);
    submission.mask = mask.or(submission.mask);
    submission.media.extend(media);
    Ok(submission)
}

/// `{:bytes, binary}` or `{:file, path}`.
fn upload(term: Term<'_>, budget: &mut Budget) -> Result<Option<Upload>, JobError> {
    if let Some(bytes) = bytes(term, budget)? {
        return Ok(Some(Upload::Bytes(bytes)));
    }
    match term.decode::<(rustler::Atom, Term<'_>)>() {
        Ok((tag, path)) if tag == atoms::file() => {
            let path = text(path)?;
            if path.is_empty() || path.contains('\0') {
                return Err(invalid("not the path of a file"));
            }
            Ok(Some(Upload::Path(path.into())))
        }
        _ => Ok(None),
    }
}

/// `{:bytes, binary}`.
fn bytes(term: Term<'_>, budget: &mut Budget) -> Result<Option<Vec<u8>>, JobError> {
    let Ok((tag, binary)) = term.decode::<(rustler::Atom, Binary<'_>)>() else {
        return Ok(None);
    };
    if tag != atoms::bytes() {
        return Ok(None);
    }
    budget.take_bytes(binary.len())?;
    Ok(Some(binary.as_slice().to_vec()))
}

fn value(term: Term<'_>, depth: u32, budget: &mut Budget) -> Result<Value, JobError> {
    budget.take_term()?;
    if depth > MAX_DEPTH {
        return Err(invalid(format!("maps and lists more than {MAX_DEPTH} deep")));
    }
    match term.get_type() {
        TermType::Atom => match atom(term)?.as_str() {
            "nil" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            name => Ok(Value::String(name.to_owned())),
        },
        TermType::Binary => {
            let text = text(term)?;
            budget.take_bytes(text.len())?;
            Ok(Value::String(text.to_owned()))
        }
        TermType::Integer => {
            let number = term.decode::<i64>().map(Number::from).or_else(|_| term.decode::<u64>().map(Number::from));
            number.map(Value::Number).map_err(|_| invalid("an integer of more than 64 bits"))
        }
        TermType::Float => {
            let number = term.decode::<f64>().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| invalid("a number that is not finite"))
        }
        TermType::List => {
            let values = list(term, MAX_TERMS)?.into_iter().map(|term| value(term, depth + 1, budget));
            Ok(Value::Array(values.collect::<Result<_, _>>()?))
        }
        TermType::Map => {
            let mut object = Map::new();
            for (key, term) in fields(term, budget)? {
                let value = value(term, depth + 1, budget).map_err(|error| within_field(&key, error))?;
                object.insert(key, value);
            }
            Ok(Value::Object(object))
        }
        other => Err(invalid(format!("a {} where JSON is expected", format!("{other:?}").to_lowercase()))),
    }
}

/// The fields of a map, each once.
fn fields<'a>(term: Term<'a>, budget: &mut Budget) -> Result<Vec<(String, Term<'a>)>, JobError> {
    let entries = MapIterator::new(term).ok_or_else(|| invalid("not a map"))?;
    let mut fields: Vec<(String, Term<'a>)> = Vec::new();
    for (key, value) in entries {
        budget.take_term()?;
        let key = match key.get_type() {
            TermType::Atom => atom(key)?,
            TermType::Binary => text(key)?.to_owned(),
            _ => return Err(invalid("a key that is neither an atom nor a binary")),
        };
        budget.take_bytes(key.len())?;
        fields.push((key, value));
    }
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    match fields.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(invalid(format!("`{}` is there twice, as an atom and as a binary", short(&pair[0].0)))),
        None => Ok(fields),
    }
}

/// The elements of a proper list of at most `limit`.
fn list(mut term: Term<'_>, limit: usize) -> Result<Vec<Term<'_>>, JobError> {
    let mut elements = Vec::new();
    while let Ok((head, tail)) = term.list_get_cell() {
        if elements.len() == limit {
            return Err(JobError::new(ErrorKind::TooLarge, format!("a list of more than {limit} elements")));
        }
        elements.push(head);
        term = tail;
    }
    if term.is_empty_list() { Ok(elements) } else { Err(invalid("not a proper list")) }
}

fn atom(term: Term<'_>) -> Result<String, JobError> {
    term.atom_to_string().map_err(|_| invalid("an atom with characters beyond Latin-1"))
}

fn text(term: Term<'_>) -> Result<&str, JobError> {
    let binary = term.decode::<Binary<'_>>().map_err(|_| invalid("not a binary"))?;
    std::str::from_utf8(binary.as_slice()).map_err(|_| invalid("a binary that is not UTF-8"))
}

/// A handle that an earlier call has given out.
pub(crate) fn handle<T: Resource>(what: &str, term: Term<'_>) -> Result<ResourceArc<T>, JobError> {
    term.decode().map_err(|_| invalid(format!("{what} is not a handle of one")))
}

/// The id of a job.
///
/// # Errors
/// `unknown_job` for text that is no id.
pub(crate) fn id(term: Term<'_>) -> Result<JobId, JobError> {
    text(term).map_err(|error| within_field("id", error))?.parse()
}

/// A list of ids. What cannot be the id of a job is left out, as an id of none would be.
pub(crate) fn ids(term: Term<'_>) -> Result<Vec<JobId>, JobError> {
    let ids = list(term, MAX_IDS)?.into_iter().map(|term| text(term).map(|text| text.parse().ok()));
    Ok(ids.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The name of a stage.
///
/// # Errors
/// `not_found` for what is none.
pub(crate) fn stage(term: Term<'_>) -> Result<JobKind, JobError> {
    JobKind::stage(text(term).map_err(|error| within_field("stage", error))?)
}

/// Which of a job's files.
pub(crate) fn index(term: Term<'_>) -> Result<usize, JobError> {
    term.decode().map_err(|_| JobError::new(ErrorKind::NotFound, "the files of a job are numbered from 0"))
}

/// The number of an event.
pub(crate) fn after(term: Term<'_>) -> Result<u64, JobError> {
    term.decode().map_err(|_| invalid("`after` is not the number of an event"))
}

/// The name of a model.
pub(crate) fn name(term: Term<'_>) -> Result<&str, JobError> {
    text(term).map_err(|error| within_field("name", error))
}

/// A process of this node.
pub(crate) fn pid(term: Term<'_>) -> Result<LocalPid, JobError> {
    term.decode().map_err(|_| invalid("not a process of this node"))
}

fn invalid(message: impl Into<String>) -> JobError {
    JobError::new(ErrorKind::InvalidRequest, message)
}

fn within_field(key: &str, error: JobError) -> JobError {
    JobError::new(error.kind, format!("`{}`: {}", short(key), error.message))
}

/// Enough of a text for a message.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
