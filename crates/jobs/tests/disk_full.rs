//! A result that finds no room. Alone in its file: the limit it sets holds for the whole process.
#![cfg(unix)]

mod support;

use sango_jobs::{Engine, ErrorKind, State};
use support::{FakeRunner, ended, image, open};

#[test]
fn a_result_without_room_fails_its_job_and_the_engine_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path(), &FakeRunner::new());
    // SAFETY: both calls only change this process's own signal disposition and file size limit, and this is the only
    // test in the binary.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let id = engine.submit(image("big")).unwrap().job.id;
    let job = ended(&engine, id);
    let error = job.error.unwrap();
    assert_eq!((job.state, error.kind), (State::Failed, ErrorKind::StorageFull));
    assert!(error.message.contains("free some space"), "{error}");
    let id = engine.submit(image("small")).unwrap().job.id;
    assert_eq!(ended(&engine, id).state, State::Finished);
}
