//! The jobs engine as a NIF: the functions of the Elixir module `Sango.Native`.
//!
//! - No function raises: each answers `{:ok, value}` (or `:ok`), or `{:error, {code, message, status}}` with a code of the
//!   one error table. Wrong types are `invalid_request`, a panic is `internal`.
//! - No function that may wait for a lock or a disk runs on a normal scheduler.
//! - Maps that come out are the JSON of `docs/protocol.md`, with binaries as keys.
//! - An engine ends with its owner process, with the last reference to its handle, or by `close/1`, whichever comes first;
//!   a subscription with the process that it sends to, its handle, `unsubscribe/1`, or its engine.
//!
//! `functions` are what Elixir calls; `session` and `subscription` own what lives longer than a call; `decode` and `encode`
//! are the only places that know what terms look like.

mod atoms;
mod budget;
mod decode;
mod encode;
mod functions;
mod guard;
mod options;
mod process;
mod reply;
mod runner;
mod session;
mod subscription;

rustler::init!("Elixir.Sango.Native", load = load);

/// The panic hook and the log of the Rust side go to standard error: `SANGO_LOG` sets how much of it (`warn` by default).
fn load(_: rustler::Env<'_>, _: rustler::Term<'_>) -> bool {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SANGO_LOG").unwrap_or_else(|_| "warn".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // An error means that there is one already.
    let _ = log.try_init();
    true
}
