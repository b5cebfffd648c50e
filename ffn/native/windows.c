/* Fields of view out of flat canvases and back into them, on one CPU thread.
 *
 * Compiled at first use for one field of view, with -DFOV_Z -DFOV_Y -DFOV_X (see build.py). Its lines lie apart in a
 * canvas that no cache holds: what takes the time is waiting for memory. So lines are asked for some time ahead,
 * and all that is done with a voxel is done while it is at hand. A batch of rows begins at the voxels `at`, one
 * number every `at_step`; a plane and a line of the canvas are `plane` and `line` voxels.
 */
#include <stdint.h>

#define AHEAD 4 /* lines; fewer come too late, more drive each other out */
#define VECTOR 16

static inline void ask_for(const float *line)
{
    for (int x = 0; x < FOV_X; x += VECTOR)
        __builtin_prefetch(line + x);
    __builtin_prefetch(line + FOV_X - 1);
}

static inline int64_t line_ahead(int z, int y, int64_t plane, int64_t line)
{
    int n = z * FOV_Y + y + AHEAD;
    n = n < FOV_Z * FOV_Y ? n : FOV_Z * FOV_Y - 1;
    return n / FOV_Y * plane + n % FOV_Y * line;
}

/* Rows of `to` are `row_step` apart, their voxels `voxel_step`; NaN becomes `unseen`, which may be NaN. */
void gather(const float *restrict canvas, int64_t plane, int64_t line, const int64_t *at, int64_t at_step, int64_t rows,
            float unseen, float *restrict to, int64_t row_step, int64_t voxel_step)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *first = canvas + at[row * at_step];
        float *out = to + row * row_step;
        for (int z = 0; z < FOV_Z; z++)
            for (int y = 0; y < FOV_Y; y++) {
                const float *from = first + z * plane + y * line;
                ask_for(first + line_ahead(z, y, plane, line));
                if (voxel_step == 1)
                    for (int x = 0; x < FOV_X; x++)
                        out[x] = from[x] != from[x] ? unseen : from[x];
                else
                    for (int x = 0; x < FOV_X; x++)
                        out[x * voxel_step] = from[x] != from[x] ? unseen : from[x];
                out += FOV_X * voxel_step;
            }
    }
}

/* `Canvas.scatter` row by row: into the canvas and into `written`. The disco rule is on where `least` voxels or
 * more of a row are at `move` or above. */
void scatter(float *restrict canvas, int64_t plane, int64_t line, const int64_t *at, int64_t at_step, int64_t rows,
             const float *restrict logits, float *restrict written, float move, int64_t least)
{
    for (int64_t row = 0; row < rows; row++) {
        float *first = canvas + at[row * at_step];
        int32_t count = 0;
        for (int i = 0; i < FOV_Z * FOV_Y * FOV_X; i++)
            count += logits[i] >= move;
        const float bound = count >= least ? 0.0f : -__builtin_inff();
        for (int z = 0; z < FOV_Z; z++)
            for (int y = 0; y < FOV_Y; y++) {
                float *to = first + z * plane + y * line;
                ask_for(first + line_ahead(z, y, plane, line));
                for (int x = 0; x < FOV_X; x++) {
                    const float old = to[x], new = logits[x];
                    to[x] = written[x] = (old < bound) & (new > old) ? old : new;
                }
                logits += FOV_X;
                written += FOV_X;
            }
    }
}
