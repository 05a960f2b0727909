/* sango_kernels.h: CPU compute kernels for gemm, convolution, attention and norms.
 *
 * Matrices are row-major with an explicit distance ("stride", in elements, at least the number of columns) from one row
 * to the next. Images and videos are channels-last: a row per pixel. Weights are packed once into an opaque handle that any number
 * of threads may use at the same time.
 *
 * Every operation has an f32 and a bf16 entry point; bf16 values are their upper 16 bits. Sums are always f32.
 * Denormals are treated as zero. NaN reaches every output it takes part in.
 *
 * Functions that return a sango_status return SANGO_OK or leave the output as it was; sango_last_error() then says
 * why in words. Pointers may be null where the comment says so, and wherever a size is 0.
 *
 * Environment: SANGO_ISA=scalar|avx2|avx512|avx512bf16|amx forces an instruction set, SANGO_NUM_THREADS the number of
 * threads. No function throws, longjmps or aborts. */
#ifndef SANGO_KERNELS_H
#define SANGO_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t sango_status;
enum {
  SANGO_OK = 0,
  SANGO_NULL_POINTER = 1,
  SANGO_INVALID_SHAPE = 2,
  SANGO_OVERFLOW = 3,
  SANGO_OUT_OF_MEMORY = 4,
  SANGO_INVALID_ENUM = 5,
  SANGO_ISA_UNAVAILABLE = 6,
  SANGO_INTERNAL_ERROR = 7
};

/* A bf16 number: the upper half of the f32 with the same value. */
typedef uint16_t sango_bf16;

/* Number format of packed weights. With bf16 and int8, activations are rounded to bf16 before they are multiplied. int8
 * weights have one scale per weight row, which maps the row's largest magnitude to 127; a row with a number that is not
 * finite yields NaN. */
enum { SANGO_PRECISION_F32 = 0, SANGO_PRECISION_BF16 = 1, SANGO_PRECISION_INT8 = 2 };

/* x; x Phi(x); its tanh approximation; x sigmoid(1.702 x); x sigmoid(x). */
enum {
  SANGO_ACTIVATION_NONE = 0,
  SANGO_ACTIVATION_GELU = 1,
  SANGO_ACTIVATION_GELU_TANH = 2,
  SANGO_ACTIVATION_QUICK_GELU = 3,
  SANGO_ACTIVATION_SILU = 4
};

/* Which keys a query sees: all; up to and including i + kv_len - q_len; as an additive mask says. */
enum { SANGO_MASK_NONE = 0, SANGO_MASK_CAUSAL = 1, SANGO_MASK_ADDITIVE = 2 };

/* What a 3-d convolution sees outside the video in time: nothing; the first frame kt - 1 times before it; the first frame
 * and the last, each (kt - 1) / 2 times. */
enum { SANGO_TIME_NONE = 0, SANGO_TIME_CAUSAL = 1, SANGO_TIME_SYMMETRIC = 2 };

typedef struct sango_weights sango_weights;
typedef struct sango_conv2d_weights sango_conv2d_weights;
typedef struct sango_conv3d_weights sango_conv3d_weights;

/* activation(product + bias) + residual; for gated weights value * activation(gate) + residual. */
typedef struct sango_epilogue {
  const float *bias;      /* [n], or null */
  int32_t activation;     /* SANGO_ACTIVATION_... */
  const void *residual;   /* shaped as the output, of the entry point's type, or null; may be the output itself */
  size_t residual_stride; /* at least the output's columns */
} sango_epilogue;

typedef struct sango_conv2d_shape {
  size_t n, h, w;    /* images, input height and width */
  size_t stride;     /* at least 1 */
  size_t pad[4];     /* zeros: top, left, bottom, right */
  size_t upsample;   /* 1, or 2 to convolve the twofold nearest-neighbour enlargement */
  size_t x_stride;   /* elements from one input pixel to the next, at least c_in */
  size_t out_stride; /* elements from one output pixel to the next, at least c_out */
} sango_conv2d_shape;

typedef struct sango_conv3d_shape {
  size_t n, t, h, w; /* videos, input frames, height and width */
  size_t stride[3];  /* frames, rows, columns; at least 1 */
  int32_t time;      /* SANGO_TIME_... */
  size_t pad[2];     /* zeros: above and below, left and right */
  size_t x_stride;   /* elements from one input pixel to the next, at least c_in */
  size_t out_stride; /* elements from one output pixel to the next, at least c_out */
} sango_conv3d_shape;

/* Distances in elements; the values of one head lie side by side. */
typedef struct sango_strides {
  size_t batch, head, position;
} sango_strides;

typedef struct sango_attention_shape {
  size_t batch, heads, kv_heads; /* heads is a multiple of kv_heads */
  size_t q_len, kv_len, head_dim; /* head_dim is at most 256 */
  sango_strides q, k, v, out;
  sango_strides mask; /* of an additive mask's rows of kv_len values; 0 broadcasts */
} sango_attention_shape;

/* ---- The library ------------------------------------------------------------------------------------------------ */

/* Why the last failing call on this thread failed; valid until the next failing call on it. */
const char *sango_last_error(void);
/* "ok", "null pointer", ...; never null. */
const char *sango_status_name(sango_status status);
/* The instruction set in use, such as "avx512bf16". */
const char *sango_isa(void);
size_t sango_num_threads(void);
void sango_set_num_threads(size_t threads);

/* ---- gemm ------------------------------------------------------------------------------------------------------- */

/* Pack [n, k] weights (out = a * transpose(w)). Gated weights have the values in rows 0 .. n/2 and their gates in rows
 * n/2 .. n. On failure *weights is null. */
sango_status sango_weights_pack_f32(const float *w, size_t n, size_t k, size_t stride, int32_t precision, bool gated,
                                    sango_weights **weights);
sango_status sango_weights_pack_bf16(const sango_bf16 *w, size_t n, size_t k, size_t stride, int32_t precision,
                                     bool gated, sango_weights **weights);
void sango_weights_free(sango_weights *weights); /* null is ignored */
size_t sango_weights_bytes(const sango_weights *weights);

/* out [m, n] (or [m, n/2], gated) = epilogue(a [m, k] * transpose(w)); epilogue may be null. */
sango_status sango_gemm_f32(const float *a, size_t m, size_t a_stride, const sango_weights *weights,
                            const sango_epilogue *epilogue, float *out, size_t out_stride);
sango_status sango_gemm_bf16(const sango_bf16 *a, size_t m, size_t a_stride, const sango_weights *weights,
                             const sango_epilogue *epilogue, sango_bf16 *out, size_t out_stride);
/* The same for one row. */
sango_status sango_gemv_f32(const float *x, const sango_weights *weights, const sango_epilogue *epilogue, float *out);
sango_status sango_gemv_bf16(const sango_bf16 *x, const sango_weights *weights, const sango_epilogue *epilogue,
                             sango_bf16 *out);

/* ---- Convolution ------------------------------------------------------------------------------------------------ */

/* Pack [c_out, c_in / groups, kh, kw] weights; groups is 1, or c_in == c_out (depthwise, always computed in f32). */
sango_status sango_conv2d_weights_pack_f32(const float *w, size_t c_out, size_t c_in, size_t kh, size_t kw,
                                           size_t groups, int32_t precision, sango_conv2d_weights **weights);
sango_status sango_conv2d_weights_pack_bf16(const sango_bf16 *w, size_t c_out, size_t c_in, size_t kh, size_t kw,
                                            size_t groups, int32_t precision, sango_conv2d_weights **weights);
void sango_conv2d_weights_free(sango_conv2d_weights *weights); /* null is ignored */

sango_status sango_conv2d_output(const sango_conv2d_shape *shape, const sango_conv2d_weights *weights, size_t *out_h,
                                 size_t *out_w);
/* out [n, out_h, out_w, c_out] = epilogue(conv2d(x [n, h, w, c_in])); epilogue may be null. */
sango_status sango_conv2d_f32(const float *x, const sango_conv2d_shape *shape, const sango_conv2d_weights *weights,
                              const sango_epilogue *epilogue, float *out);
sango_status sango_conv2d_bf16(const sango_bf16 *x, const sango_conv2d_shape *shape,
                               const sango_conv2d_weights *weights, const sango_epilogue *epilogue, sango_bf16 *out);

/* Pack [c_out, c_in, kt, kh, kw] weights. */
sango_status sango_conv3d_weights_pack_f32(const float *w, size_t c_out, size_t c_in, size_t kt, size_t kh, size_t kw,
                                           int32_t precision, sango_conv3d_weights **weights);
sango_status sango_conv3d_weights_pack_bf16(const sango_bf16 *w, size_t c_out, size_t c_in, size_t kt, size_t kh,
                                            size_t kw, int32_t precision, sango_conv3d_weights **weights);
void sango_conv3d_weights_free(sango_conv3d_weights *weights); /* null is ignored */

sango_status sango_conv3d_output(const sango_conv3d_shape *shape, const sango_conv3d_weights *weights, size_t *out_t,
                                 size_t *out_h, size_t *out_w);
/* out [n, out_t, out_h, out_w, c_out] = epilogue(conv3d(x [n, t, h, w, c_in])); epilogue may be null. */
sango_status sango_conv3d_f32(const float *x, const sango_conv3d_shape *shape, const sango_conv3d_weights *weights,
                              const sango_epilogue *epilogue, float *out);
sango_status sango_conv3d_bf16(const sango_bf16 *x, const sango_conv3d_shape *shape,
                               const sango_conv3d_weights *weights, const sango_epilogue *epilogue, sango_bf16 *out);

/* ---- Attention -------------------------------------------------------------------------------------------------- */

/* out = softmax(scale * q * transpose(k) + mask) * v. A query that sees no key yields zeros. out overlaps nothing. */
sango_status sango_attention_f32(const float *q, const float *k, const float *v, const sango_attention_shape *shape,
                                 float scale, int32_t mask_kind, const float *mask, float *out);
sango_status sango_attention_bf16(const sango_bf16 *q, const sango_bf16 *k, const sango_bf16 *v,
                                  const sango_attention_shape *shape, float scale, int32_t mask_kind,
                                  const float *mask, sango_bf16 *out);

/* ---- Norms (weight and bias may be null; out overlaps nothing) -------------------------------------------------- */

/* (x - mean) / sqrt(variance + eps) * weight + bias, over rows of width values. */
sango_status sango_layer_norm_f32(const float *x, size_t rows, size_t width, size_t x_stride, const float *weight,
                                  const float *bias, float eps, float *out, size_t out_stride);
sango_status sango_layer_norm_bf16(const sango_bf16 *x, size_t rows, size_t width, size_t x_stride,
                                   const float *weight, const float *bias, float eps, sango_bf16 *out,
                                   size_t out_stride);
/* x / sqrt(mean(x * x) + eps) * weight, over rows of width values. */
sango_status sango_rms_norm_f32(const float *x, size_t rows, size_t width, size_t x_stride, const float *weight,
                                float eps, float *out, size_t out_stride);
sango_status sango_rms_norm_bf16(const sango_bf16 *x, size_t rows, size_t width, size_t x_stride, const float *weight,
                                 float eps, sango_bf16 *out, size_t out_stride);
/* Contiguous images [n, pixels, channels], normalised in groups of channels, then passed through an activation. */
sango_status sango_group_norm_f32(const float *x, size_t n, size_t pixels, size_t channels, size_t groups,
                                  const float *weight, const float *bias, float eps, int32_t activation, float *out);
sango_status sango_group_norm_bf16(const sango_bf16 *x, size_t n, size_t pixels, size_t channels, size_t groups,
                                   const float *weight, const float *bias, float eps, int32_t activation,
                                   sango_bf16 *out);

#ifdef __cplusplus
}
#endif

#endif /* SANGO_KERNELS_H */
