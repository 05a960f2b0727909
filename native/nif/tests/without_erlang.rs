//! The unit tests of the modules that know nothing of Erlang. What does can only be tested inside the BEAM: see the tests of
//! `elixir_app/engine`.
#![allow(dead_code, reason = "the rest of the library is not here to use it")]

#[path = "../src/budget.rs"]
mod budget;
#[path = "../src/guard.rs"]
mod guard;
#[path = "../src/options.rs"]
mod options;
#[path = "../src/process.rs"]
mod process;
#[path = "../src/runner.rs"]
mod runner;
