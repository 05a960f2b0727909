/* Calls the library the way a C programmer would. Prints what failed and exits with 1, or prints "ok" and the instruction set. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sango_kernels.h"

static int failures = 0;

#define EXPECT(condition)                                                              \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      failures++;                                                                      \
      printf("line %d: %s (%s)\n", __LINE__, #condition, sango_last_error());          \
    }                                                                                  \
  } while (0)

static int close_to(float a, float b) { return fabsf(a - b) <= 1e-5f * (1.0f + fabsf(b)); }

static sango_bf16 to_bf16(float value) { /* exact for the small integers used here */
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (sango_bf16)(bits >> 16);
}

static float from_bf16(sango_bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

static void gemm(void) {
  /* Strided operands: 3 of 5 columns of a, 3 of 4 of w, 2 of 3 of out. */
  const float a[] = {1, 2, 3, -9, -9, 4, 5, 6, -9, -9};
  const float w[] = {1, 0, -1, -9, 2, 2, 2, -9};
  const float bias[] = {0.5f, -1};
  float out[] = {7, 7, 7, 7, 7, 7};
  sango_weights *weights = NULL;
  EXPECT(sango_weights_pack_f32(w, 2, 3, 4, SANGO_PRECISION_F32, false, &weights) == SANGO_OK);
  EXPECT(sango_weights_bytes(weights) >= 6 * sizeof(float));
  sango_epilogue epilogue = {bias, SANGO_ACTIVATION_NONE, out, 3}; /* in place residual */
  EXPECT(sango_gemm_f32(a, 2, 5, weights, &epilogue, out, 3) == SANGO_OK);
  EXPECT(out[0] == 5.5f && out[1] == 18 && out[2] == 7 && out[3] == 5.5f && out[4] == 36 && out[5] == 7);
  EXPECT(sango_gemv_f32(a, weights, NULL, out) == SANGO_OK);
  EXPECT(out[0] == -2 && out[1] == 12);

  sango_bf16 narrow[3], result[2];
  for (int i = 0; i < 3; i++) narrow[i] = to_bf16(a[i]);
  EXPECT(sango_gemv_bf16(narrow, weights, NULL, result) == SANGO_OK);
  EXPECT(from_bf16(result[0]) == -2 && from_bf16(result[1]) == 12);

  EXPECT(sango_gemm_f32(NULL, 2, 5, weights, NULL, out, 3) == SANGO_NULL_POINTER);
  EXPECT(strstr(sango_last_error(), "a is a null pointer") != NULL);
  EXPECT(sango_gemm_f32(a, 2, 2, weights, NULL, out, 3) == SANGO_INVALID_SHAPE);
  EXPECT(sango_gemm_f32(a, SIZE_MAX / 4, 5, weights, NULL, out, 3) == SANGO_OVERFLOW);
  EXPECT(sango_gemm_f32(NULL, 0, 5, weights, NULL, NULL, 3) == SANGO_OK);
  epilogue.activation = 99;
  EXPECT(sango_gemm_f32(a, 2, 5, weights, &epilogue, out, 3) == SANGO_INVALID_ENUM);
  sango_weights_free(weights);

  /* The rows' largest magnitudes become 127; these weights are exact. */
  EXPECT(sango_weights_pack_f32(w, 2, 3, 4, SANGO_PRECISION_INT8, false, &weights) == SANGO_OK);
  EXPECT(sango_gemv_f32(a, weights, NULL, out) == SANGO_OK);
  EXPECT(close_to(out[0], -2) && close_to(out[1], 12));
  sango_weights_free(weights);

  EXPECT(sango_weights_pack_f32(w, 2, 3, 4, 7, false, &weights) == SANGO_INVALID_ENUM);
  EXPECT(weights == NULL);
  sango_weights_free(weights);
}

static void convolution(void) {
  /* A 2x2 sum over a 2x3 image with one row of padding below. */
  const float x[] = {1, 2, 3, 4, 5, 6}, w[] = {1, 1, 1, 1}, want[] = {12, 16, 9, 11};
  float out[4];
  size_t h = 0, width = 0;
  sango_conv2d_weights *weights = NULL;
  sango_conv2d_shape shape = {1, 2, 3, 1, {0, 0, 1, 0}, 1, 1, 1};
  EXPECT(sango_conv2d_weights_pack_f32(w, 1, 1, 2, 2, 1, SANGO_PRECISION_F32, &weights) == SANGO_OK);
  EXPECT(sango_conv2d_output(&shape, weights, &h, &width) == SANGO_OK && h == 2 && width == 2);
  EXPECT(sango_conv2d_f32(x, &shape, weights, NULL, out) == SANGO_OK);
  for (int i = 0; i < 4; i++) EXPECT(out[i] == want[i]);
  shape.h = 0;
  EXPECT(sango_conv2d_f32(x, &shape, weights, NULL, out) == SANGO_INVALID_SHAPE);
  EXPECT(sango_conv2d_f32(x, NULL, weights, NULL, out) == SANGO_NULL_POINTER);
  sango_conv2d_weights_free(weights);
}

static void convolution_of_a_video(void) {
  /* Sums of two neighbouring frames, the first of which is repeated. */
  const float x[] = {1, 2, 3, 4, 5, 6}, w[] = {1, 1}, want[] = {2, 4, 4, 6, 8, 10};
  float out[6];
  size_t t = 0, h = 0, width = 0;
  sango_conv3d_weights *weights = NULL;
  sango_conv3d_shape shape = {1, 3, 1, 2, {1, 1, 1}, SANGO_TIME_CAUSAL, {0, 0}, 1, 1};
  EXPECT(sango_conv3d_weights_pack_f32(w, 1, 1, 2, 1, 1, SANGO_PRECISION_F32, &weights) == SANGO_OK);
  EXPECT(sango_conv3d_output(&shape, weights, &t, &h, &width) == SANGO_OK && t == 3 && h == 1 && width == 2);
  EXPECT(sango_conv3d_f32(x, &shape, weights, NULL, out) == SANGO_OK);
  for (int i = 0; i < 6; i++) EXPECT(out[i] == want[i]);

  sango_bf16 narrow[6], result[6];
  for (int i = 0; i < 6; i++) narrow[i] = to_bf16(x[i]);
  EXPECT(sango_conv3d_bf16(narrow, &shape, weights, NULL, result) == SANGO_OK);
  for (int i = 0; i < 6; i++) EXPECT(from_bf16(result[i]) == want[i]);

  shape.time = 9;
  EXPECT(sango_conv3d_f32(x, &shape, weights, NULL, out) == SANGO_INVALID_ENUM);
  shape.time = SANGO_TIME_CAUSAL;
  shape.x_stride = 0;
  EXPECT(sango_conv3d_f32(x, &shape, weights, NULL, out) == SANGO_INVALID_SHAPE);
  EXPECT(sango_conv3d_f32(x, NULL, weights, NULL, out) == SANGO_NULL_POINTER);
  sango_conv3d_weights_free(weights);
}

static void attention_and_norms(void) {
  const float q[] = {0, 0}, k[] = {1, 2, 3, 4}, v[] = {1, 10, 3, 30};
  float out[4];
  sango_strides one = {0, 0, 2};
  sango_attention_shape shape = {1, 1, 1, 1, 2, 2, one, one, one, one, one};
  EXPECT(sango_attention_f32(q, k, v, &shape, 1, SANGO_MASK_NONE, NULL, out) == SANGO_OK);
  EXPECT(close_to(out[0], 2) && close_to(out[1], 20));
  EXPECT(sango_attention_f32(q, k, v, &shape, 1, 5, NULL, out) == SANGO_INVALID_ENUM);
  EXPECT(sango_attention_f32(q, k, v, &shape, 1, SANGO_MASK_ADDITIVE, NULL, out) == SANGO_NULL_POINTER);

  EXPECT(sango_layer_norm_f32(v, 2, 2, 2, NULL, NULL, 0, out, 2) == SANGO_OK);
  EXPECT(close_to(out[0], -1) && close_to(out[1], 1) && close_to(out[3], 1));
  EXPECT(sango_rms_norm_f32(k, 1, 2, 2, NULL, 0, out, 2) == SANGO_OK);
  EXPECT(close_to(out[0], 0.6324555f));
  EXPECT(sango_group_norm_f32(v, 1, 2, 2, 2, NULL, NULL, 0, SANGO_ACTIVATION_NONE, out) == SANGO_OK);
  EXPECT(close_to(out[0], -1) && close_to(out[3], 1));
  EXPECT(sango_group_norm_f32(v, 1, 2, 2, 0, NULL, NULL, 0, SANGO_ACTIVATION_NONE, out) == SANGO_INVALID_SHAPE);
}

int main(void) {
  EXPECT(sango_num_threads() >= 1);
  sango_set_num_threads(2);
  EXPECT(sango_num_threads() == 2);
  EXPECT(strlen(sango_isa()) > 0);
  EXPECT(strcmp(sango_status_name(SANGO_OVERFLOW), "size overflow") == 0);
  gemm();
  convolution();
  convolution_of_a_video();
  attention_and_norms();
  if (failures == 0) printf("ok %s\n", sango_isa());
  return failures != 0;
}
