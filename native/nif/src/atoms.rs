//! The atoms in answers and messages.

rustler::atoms! {
    ok,
    error,
    bytes,
    file,
    sango_event,
    sango_job,
    sango_lagged,
    sango_end,
}
