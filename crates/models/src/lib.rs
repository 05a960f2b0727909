//! aMUSEd and the parts it shares: CLIP text encoder, VQ decoder, schedulers.
