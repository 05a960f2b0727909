//! A disk that fills up while a picture is saved. Alone in its file: the limit it sets holds for the whole process.
#![cfg(unix)]

use sango_media::{MediaError, RgbImage, save_png};

#[test]
fn a_full_disk_keeps_the_old_file_and_leaves_no_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let small = RgbImage::new(4, 4);
    save_png(&path, &small, &[]).unwrap();
    let before = std::fs::read(&path).unwrap();

    // SAFETY: this only changes the process's own signal disposition; nothing else runs in this test binary.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut state = 1u32;
    let noise = RgbImage::from_fn(64, 64, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        image::Rgb([(state >> 24) as u8, (state >> 16) as u8, (state >> 8) as u8])
    });
    limit_file_size(4096);
    let saved = save_png(&path, &noise, &[]);
    // The limit would hold for the test's own output too, where that goes to a file.
    limit_file_size(libc::RLIM_INFINITY);
    let error = saved.unwrap_err();
    assert!(matches!(&error, MediaError::DiskFull { path: p, bytes } if *p == path && *bytes > 4096), "{error}");
    assert!(error.to_string().contains("picture.png"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn limit_file_size(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live struct, and the call only changes this process's own limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
}
