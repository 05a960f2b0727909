//! Jobs, events, the queue and the worker that runs models.
