/* The flood-filling network on one CPU thread: 3x3x3 convolutions by Winograd F(3x3x3, 3x3x3).
 *
 * Compiled at first use for one shape, with -DFEATURES -DFOV_Z -DFOV_Y -DFOV_X (see build.py). Method: Lavin & Gray
 * 2015 (arXiv 1509.09308), nested over the three axes with the points 0, 1, -1, 2, infinity: 125 products where
 * the direct sum needs 729, for 27 outputs.
 *
 * Activations lie as (Z, Y, X, channels) with one voxel of zeros before and enough after, so that tiles need no
 * border cases. One row of tiles along x goes through all stages while it is in the cache:
 *
 *     5 x 5 x (3 TX + 2) voxels  -x->  -y->  -z->  V (125, TX, C)   GEMM with U (125, C, C)   M (125, TX, C)
 *     -z->  -y->  -x->  3 x 3 x 3 TX voxels, + bias (+ what was there: the residual)
 */
#include <stdint.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define TILE 3
#define POINTS 5
#define ALL_POINTS (POINTS * POINTS * POINTS)
#define TILES(n) (((n) + TILE - 1) / TILE)
#define TZ TILES(FOV_Z)
#define TY TILES(FOV_Y)
#define TX TILES(FOV_X)
#define PY (TY * TILE + 2)
#define PX (TX * TILE + 2)
#define C CHANNELS /* FEATURES rounded up to whole vectors */

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12 /* tiles a pass of the GEMM holds in registers, times two vectors */
#else
#define LANES 8
#define ROWS 4
#endif
#define VECTORS (C / LANES)
#define ROW_VECTORS (POINTS * TX * VECTORS)

typedef float vec __attribute__((vector_size(LANES * 4), aligned(LANES * 4), may_alias));

typedef int32_t mask __attribute__((vector_size(LANES * 4)));

#if defined(__AVX512F__)
static inline vec relu(vec v) { return (vec)_mm512_max_ps((__m512)v, _mm512_setzero_ps()); }
#else
static inline vec relu(vec v) { return (vec)((mask)v & (mask)(v > (vec){0})); }
#endif

/* B^T d of one axis: five values into the five points. */
static inline __attribute__((always_inline)) void into(const vec d[5], vec t[5]) {
    vec a = d[3] - d[1];
    t[0] = 2.0f * (d[0] - d[2]) + a;
    t[1] = (d[3] - d[2]) - 2.0f * d[1];
    t[2] = (d[3] - d[2]) + 2.0f * (d[1] - d[2]);
    t[3] = a;
    t[4] = (d[4] - d[2]) - 2.0f * a;
}

/* A^T m of one axis: five points back to three values. */
static inline __attribute__((always_inline)) void back(const vec m[5], vec y[3]) {
    vec sum = m[1] + m[2];
    y[0] = (m[0] + sum) + m[3];
    y[1] = (m[1] - m[2]) + 2.0f * m[3];
    y[2] = (sum + m[4]) + 4.0f * m[3];
}

typedef struct {
    vec x[POINTS * POINTS * ROW_VECTORS]; /* 5 z, 5 y rows transformed along x: row y lies at y % 5 */
    vec v[ALL_POINTS * TX * VECTORS];
    vec m[ALL_POINTS * TX * VECTORS];
} scratch_t;

/* The five points along x of one row of voxels. */
static void row_into(const vec *row, vec *points) {
    for (int tile = 0; tile < TX; tile++)
        for (int c = 0; c < VECTORS; c++) {
            vec d[5], t[5];
            for (int i = 0; i < 5; i++) d[i] = relu(row[(tile * TILE + i) * VECTORS + c]);
            into(d, t);
            for (int i = 0; i < 5; i++) points[(i * TX + tile) * VECTORS + c] = t[i];
        }
}

/* V of the row of tiles at y; `in` points at the plane before its first one. Rows go downward in y: the two that
 * a row of tiles shares with the one above are there already. */
static void gather(const vec *in, int y, scratch_t *s) {
    for (int z = 0; z < POINTS; z++)
        for (int i = y == 0 ? 0 : POINTS - TILE; i < POINTS; i++)
            row_into(in + (size_t)(z * PY + y + i) * PX * VECTORS,
                     s->x + (z * POINTS + (y + i) % POINTS) * ROW_VECTORS);
    for (int k = 0; k < ROW_VECTORS; k++) {
        vec d[POINTS][POINTS], t[POINTS];
        for (int z = 0; z < POINTS; z++) {
            vec column[POINTS];
            for (int i = 0; i < POINTS; i++) column[i] = s->x[(z * POINTS + (y + i) % POINTS) * ROW_VECTORS + k];
            into(column, d[z]);
        }
        for (int i = 0; i < POINTS; i++) {
            vec column[POINTS];
            for (int z = 0; z < POINTS; z++) column[z] = d[z][i];
            into(column, t);
            for (int z = 0; z < POINTS; z++) s->v[(z * POINTS + i) * ROW_VECTORS + k] = t[z];
        }
    }
}

/* `rows` tiles of one point: M = V U, for two vectors of output channels at `out`. */
#define GEMM(NAME, N, W)                                                                        \
    static inline __attribute__((always_inline)) void NAME(const float *v, const vec *u, vec *m) { \
        vec acc[N][W];                                                                          \
        for (int r = 0; r < N; r++)                                                             \
            for (int w = 0; w < W; w++) acc[r][w] = (vec){0};                                   \
        for (int k = 0; k < C; k++) {                                                           \
            vec b[W];                                                                           \
            for (int w = 0; w < W; w++) b[w] = u[k * VECTORS + w];                              \
            _Pragma("GCC unroll 16") for (int r = 0; r < N; r++) {                              \
                float a = v[r * C + k];                                                         \
                for (int w = 0; w < W; w++) acc[r][w] += a * b[w];                              \
            }                                                                                   \
        }                                                                                       \
        for (int r = 0; r < N; r++)                                                             \
            for (int w = 0; w < W; w++) m[r * VECTORS + w] = acc[r][w];                         \
    }

#define WIDE 2
#define REST (TX % ROWS)
GEMM(gemm_full_wide, ROWS, WIDE)
GEMM(gemm_full_one, ROWS, 1)
#if REST
GEMM(gemm_rest_wide, REST, WIDE)
GEMM(gemm_rest_one, REST, 1)
#endif

static void multiply(const vec *u, scratch_t *s) {
    for (int p = 0; p < ALL_POINTS; p++) {
        const float *v = (const float *)(s->v + (size_t)p * TX * VECTORS);
        const vec *up = u + (size_t)p * C * VECTORS;
        vec *m = s->m + (size_t)p * TX * VECTORS;
        int w = 0;
        for (; w + WIDE <= VECTORS; w += WIDE) {
            int r = 0;
            for (; r + ROWS <= TX; r += ROWS) gemm_full_wide(v + r * C, up + w, m + r * VECTORS + w);
#if REST
            gemm_rest_wide(v + r * C, up + w, m + r * VECTORS + w);
#endif
        }
        for (; w < VECTORS; w++) {
            int r = 0;
            for (; r + ROWS <= TX; r += ROWS) gemm_full_one(v + r * C, up + w, m + r * VECTORS + w);
#if REST
            gemm_rest_one(v + r * C, up + w, m + r * VECTORS + w);
#endif
        }
    }
}

/* The outputs of one row of tiles; `out` points at its first voxel, z and y tell how many rows are real. */
static void scatter(const scratch_t *s, const vec *bias, vec *out, int depth, int height, int residual) {
    vec rows[TILE][TILE][ROW_VECTORS];
    for (int k = 0; k < ROW_VECTORS; k++) {
        vec d[POINTS][TILE], y[TILE];
        for (int z = 0; z < POINTS; z++) {
            vec column[POINTS];
            for (int i = 0; i < POINTS; i++) column[i] = s->m[(z * POINTS + i) * ROW_VECTORS + k];
            back(column, d[z]);
        }
        for (int i = 0; i < TILE; i++) {
            vec column[POINTS];
            for (int z = 0; z < POINTS; z++) column[z] = d[z][i];
            back(column, y);
            for (int z = 0; z < TILE; z++) rows[z][i][k] = y[z];
        }
    }
    for (int z = 0; z < depth; z++)
        for (int y = 0; y < height; y++) {
            vec *row = out + (size_t)(z * PY + y) * PX * VECTORS;
            for (int tile = 0; tile < TX; tile++)
                for (int c = 0; c < VECTORS; c++) {
                    vec m[5], o[3];
                    for (int i = 0; i < 5; i++) m[i] = rows[z][y][(i * TX + tile) * VECTORS + c];
                    back(m, o);
                    for (int i = 0; i < TILE && tile * TILE + i < FOV_X; i++) {
                        vec *to = row + (tile * TILE + i) * VECTORS + c;
                        *to = residual ? *to + (o[i] + bias[c]) : o[i] + bias[c];
                    }
                }
        }
}

#define AT(z, y, x) ((((size_t)(z)*PY + (y)) * PX + (x)) * VECTORS)

static inline int least(int a, int b) { return a < b ? a : b; }

/* out (+)= conv3x3x3(relu(in)) + bias; both padded (Z + 2, Y + 2, X + 2, C). */
static void convolve(const vec *in, const vec *u, const vec *bias, vec *out, int residual, scratch_t *s) {
    for (int z = 0; z < FOV_Z; z += TILE)
        for (int y = 0; y < FOV_Y; y += TILE) {
            gather(in + AT(z, 0, 0), y, s);
            multiply(u, s);
            scatter(s, bias, out + AT(z + 1, y + 1, 1), least(TILE, FOV_Z - z), least(TILE, FOV_Y - y), residual);
        }
}

/* conv0_a, two channels in: a direct sum. `in` is padded like the rest, two floats a voxel. */
static void first(const float *in, const vec *weights, const vec *bias, vec *out) {
    for (int z = 0; z < FOV_Z; z++)
        for (int y = 0; y < FOV_Y; y++)
            for (int x0 = 0; x0 < FOV_X; x0 += ROWS)
                for (int c = 0; c < VECTORS; c++) {
                    int count = least(ROWS, FOV_X - x0);
                    vec acc[ROWS];
                    for (int r = 0; r < ROWS; r++) acc[r] = bias[c];
                    for (int tap = 0; tap < 27; tap++) {
                        const float *row = in + ((((size_t)z + tap / 9) * PY + y + tap / 3 % 3) * PX + x0 + tap % 3) * 2;
                        vec image = weights[(tap * 2) * VECTORS + c], seed = weights[(tap * 2 + 1) * VECTORS + c];
                        for (int r = 0; r < ROWS; r++) acc[r] += row[2 * r] * image + row[2 * r + 1] * seed;
                    }
                    for (int r = 0; r < count; r++) out[AT(z + 1, y + 1, x0 + r + 1) + c] = acc[r];
                }
}

/* conv_lom: the update of the logits, one dot product a voxel. */
static void last(const vec *in, const vec *weights, float bias, const float *seed, float *logits) {
    for (int z = 0; z < FOV_Z; z++)
        for (int y = 0; y < FOV_Y; y++)
            for (int x = 0; x < FOV_X; x++) {
                vec sum = {0};
                for (int c = 0; c < VECTORS; c++) sum += relu(in[AT(z + 1, y + 1, x + 1) + c]) * weights[c];
                float total = bias;
                for (int i = 0; i < LANES; i++) total += sum[i];
                size_t voxel = ((size_t)z * FOV_Y + y) * FOV_X + x;
                logits[voxel] = seed[voxel] + total;
            }
}

#define PADDED ((size_t)(TZ * TILE + 2) * PY * PX)
#define SLACK (2 * ROWS) /* first() reads past the last row */

size_t workspace_bytes(void) {
    return sizeof(scratch_t) + 2 * PADDED * C * sizeof(float) + (PADDED + SLACK) * 2 * sizeof(float);
}

/* One field of view. image, seed, logits (Z, Y, X); `layers` 3x3x3 layers follow the first.
 * first_weights (27, 2, C), first_bias (C); transformed (layers, 125, C in, C out); biases (layers, C);
 * workspace: zeroed once by the caller, 64-byte aligned, and only ever used here. */
void run(const float *image, const float *seed, const float *first_weights, const float *first_bias,
         const float *transformed, const float *biases, int layers, const float *last_weights, float last_bias,
         char *workspace, float *logits) {
    scratch_t *s = (scratch_t *)workspace;
    vec *n = (vec *)(workspace + sizeof(scratch_t));
    vec *t = n + PADDED * VECTORS;
    float *in = (float *)(t + PADDED * VECTORS);
    for (int z = 0; z < FOV_Z; z++)
        for (int y = 0; y < FOV_Y; y++)
            for (int x = 0; x < FOV_X; x++) {
                size_t voxel = ((size_t)z * FOV_Y + y) * FOV_X + x;
                float *to = in + (((size_t)(z + 1) * PY + y + 1) * PX + x + 1) * 2;
                to[0] = image[voxel];
                to[1] = seed[voxel];
            }
    first(in, (const vec *)first_weights, (const vec *)first_bias, t);
    for (int layer = 0; layer < layers; layer++) { /* conv0_b, then pairs conv_a, conv_b */
        const vec *u = (const vec *)transformed + (size_t)layer * ALL_POINTS * C * VECTORS;
        const vec *bias = (const vec *)biases + (size_t)layer * VECTORS;
        int even = layer % 2 == 0;
        convolve(even ? t : n, u, bias, even ? n : t, even && layer > 0, s);
    }
    last(n, (const vec *)last_weights, last_bias, seed, logits);
}
