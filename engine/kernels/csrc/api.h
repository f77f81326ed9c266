// The C interface of the CPU kernels: one call per fused block of the model. Everything crosses it as plain pointers
// and integers; tensors are row-major and contiguous but for a given leading dimension (ld, in elements). Functions
// return 0, or a DL_ error; they allocate only scratch memory. `threads` is the size of the OpenMP team.
#pragma once
#include <cstdint>

#define DL_OK 0
#define DL_OUT_OF_MEMORY 1
#define DL_UNSUPPORTED 2
#define DL_NO_SCALE 3

enum dl_format : int32_t {
    DL_F32 = 0, DL_F16 = 1, DL_BF16 = 2, DL_FP8_E4M3 = 3, DL_INT4 = 4,
    DL_Q4_0 = 10, DL_Q4_1, DL_Q5_0, DL_Q5_1, DL_Q8_0,
    DL_Q2_K = 20, DL_Q3_K, DL_Q4_K, DL_Q5_K, DL_Q6_K,
    DL_IQ2_XXS = 30, DL_IQ2_XS, DL_IQ2_S, DL_IQ3_XXS, DL_IQ3_S, DL_IQ4_NL, DL_IQ4_XS,
    DL_MXFP4 = 40, DL_NVFP4,
};

// How a matrix meets its inputs: 8-bit integers with a scale per 32 inputs, bf16 pairs, or fp32 throughout.
enum dl_form : int32_t { DL_FORM_INT8 = 0, DL_FORM_BF16 = 1, DL_FORM_F32 = 2 };

// Weight matrices of one shape: `rows` rows of `row_bytes` bytes, as they lie in their file or packed.
struct dl_matrix {
    const uint8_t* const* parts;  // one pointer for each matrix of the stack
    const float* const* scales;   // FP8 only: block scales [ceil(rows / scale_rows), ceil(columns / group)] a part
    int64_t rows, columns, row_bytes;
    int32_t format, form;
    int32_t group;       // INT4: columns a scale serves; FP8: columns a scale serves
    int32_t scale_rows;  // FP8: rows a scale serves
    int32_t packed;      // whether the bytes are interleaved by dl_pack
};

// Rows start … start + num_rows - 1 of a batch: one sequence's tokens, at positions `position` onward.
struct dl_span {
    int64_t start, num_rows, position, slot;
    const int64_t* block_ids;
};

struct dl_delta_net {
    int64_t key_heads, value_heads, key_dim, value_dim, conv_kernel;
    // Where a key head's parts start in a projected row, and the step to the next key head's; v and z hold
    // value_heads / key_heads heads each.
    int64_t q_offset, q_stride, k_offset, k_stride, v_offset, v_stride, z_offset, z_stride;
    int64_t ba_offset;        // per key head: all its b, then all its a
    const float* conv;        // [channels, conv_kernel], channels: all q, all k, all v
    const float* decay_rate;  // -exp(A_log) [value_heads]
    const float* dt_bias;     // [value_heads]
    const float* norm;        // [value_dim]
    float eps, l2_eps;
};

struct dl_attention {
    int64_t num_heads, num_kv_heads, head_dim, rotary_half;
    int64_t k_offset, v_offset;  // in a projected row; it starts with the heads' queries and gates [num_heads, 2 * head_dim]
    const float* q_norm;         // [head_dim], the factor itself (1 + weight)
    const float* k_norm;
    float eps;
    int32_t kv_is_bf16;
    int64_t block_size;
};

struct dl_moe {
    const float* norm;  // [hidden], the factor itself
    float eps;
    int32_t top_k, normalise;
    const dl_matrix* router;
    const dl_matrix *gate, *up, *down;
    const float* shared_gate;  // [hidden] or null: no shared expert
    const dl_matrix *shared_gate_proj, *shared_up, *shared_down;
};

// How to draw from one row of logits; its last members are written.
struct dl_draw {
    double uniform;  // in [0, 1)
    double top_p;
    float min_p;
    float scale;  // log2(e) / temperature; 0: the most likely token
    float repetition, presence, frequency;
    int64_t top_k;         // 0: all
    int64_t num_logprobs;  // of the most likely tokens, beside the drawn one's; -1: none at all
    int64_t num_seen, num_biases, num_allowed, num_barred, num_mask_bytes;
    const int64_t *seen_ids, *seen_counts;  // distinct tokens of the sequence, and how often each was generated
    const int64_t* bias_ids;
    const float* biases;
    const int64_t* allowed_ids;  // null: all are
    const int64_t* barred_ids;
    const uint8_t* mask;  // a bit for each token that may be drawn, the lowest first; null: all may
    int64_t* top_ids;      // [num_logprobs]
    double* top_logprobs;  // [num_logprobs]
    double logprob;
    int64_t token_id;  // or a dl_no_token
};
enum dl_no_token : int32_t { DL_NOT_FINITE = -1, DL_ALL_BARRED = -2 };

// The rest of the library is compiled with -fvisibility=hidden.
#pragma GCC visibility push(default)
extern "C" {
// The magnitudes that a codebook type's indices stand for; the memory must stay. IQ2: 8 values an entry, IQ3: 4.
int dl_set_codebook(int format, const uint8_t* values);

// out[i] = rows ids[i] of an embedding matrix, fp32 [m, columns].
int dl_embed(const dl_matrix* matrix, const int64_t* ids, int64_t m, float* out, int threads);

// y = x · rsqrt(mean(x²) + eps) · factor, fp32 [m, n].
int dl_rms_norm(const float* x, int64_t m, int64_t n, const float* factor, float eps, float* out, int threads);

// out (or out +=) [ W_0 x | W_1 x | … ] for rows x fp32 [m, columns], first normalised if `norm` is given.
int dl_linear(const float* x, int64_t ldx, int64_t m, const float* norm, float eps, const dl_matrix* const* matrices,
              int num_matrices, float* out, int64_t ldo, int accumulate, int threads);

// x += the mixture of experts of norm(x), in place; x fp32 [m, hidden].
int dl_moe_add(const dl_moe* moe, float* x, int64_t m, int threads);

// x += down(silu(gate norm(x)) · up norm(x)), in place.
int dl_mlp_add(const float* norm, float eps, const dl_matrix* gate, const dl_matrix* up, const dl_matrix* down,
               float* x, int64_t m, int threads);

// From projected rows [T, ldp] to the gated, normalised outputs of the delta rule, fp32 [T, value_heads * value_dim].
// delta: S fp32 [slots, value_heads, key_dim, value_dim]; conv_state: fp32 [slots, conv_kernel - 1, channels].
int dl_delta_net_mix(const dl_delta_net* net, const float* projected, int64_t ldp, float* delta, float* conv_state,
                     const dl_span* spans, int64_t num_spans, float* out, int threads);

// From projected rows to gated attention outputs fp32 [T, num_heads * head_dim]; writes K and V to the cache.
// cos, sin: fp32 [T, rotary_half]; kv_rows: the flattened cache row of each token; keys, values:
// [blocks * block_size, num_kv_heads, head_dim], bf16 or fp32.
int dl_attention_mix(const dl_attention* attention, const float* projected, int64_t ldp, const float* cos,
                     const float* sin, const int64_t* kv_rows, void* keys, void* values, const dl_span* spans,
                     int64_t num_spans, float* out, int threads);

// Draws a token from each row of logits [rows, vocab], which are scratch afterwards. Ids from `used` up are never drawn.
int dl_sample(float* logits, int64_t rows, int64_t vocab, int64_t used, dl_draw* draws, int threads);

// Blocks of 32 weights from F32, F16 or BF16 to Q8_0 or INT4. parts: `num_parts` matrices of `num_blocks` blocks each, row
// by row; out: theirs, one matrix after the other. DL_NO_SCALE: some weights are not finite, or too large.
int dl_quantise(int from, int to, const uint8_t* const* parts, int64_t num_parts, int64_t num_blocks, uint8_t* out,
                int threads);

// Interleave the blocks of each sixteen rows, to be read without rearranging: first all rows' first words, then all their
// second ones and so on, and likewise what a block has beside whole words: `head` bytes before the first one, and a rest
// after the last. `rows` is a multiple of 16. parts: `num_parts` matrices of a block type; out: theirs, one matrix after
// the other, which may be where the parts are already.
int dl_pack(int head, int block_bytes, const uint8_t* const* parts, int64_t num_parts, int64_t rows, int64_t row_bytes,
            uint8_t* out, int threads);
}
#pragma GCC visibility pop
