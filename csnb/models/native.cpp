// relu(max_pool2d(conv2d(x, w, bias, padding), 2)) for 5x5 kernels, and its gradients, on float32 NCHW arrays.
//
// Forward: as many images as a register has lanes, 8 or 16, lie side by side in the innermost dimension, so that every load,
// multiply-add, comparison and select is one instruction whatever the number of channels; the sums of a pooling window for
// three or six kernels stay in registers. A byte per pooled value keeps which of its four pixels won, or that ReLU cut it off
// ("dead").
//
// Backward: at most one of four pixels carries a gradient, and ReLU cuts off many of those. Image by image, the live
// gradients are listed, and only they are multiplied, by rows of the kernel (input gradient) or of pixels (weight
// gradient), five numbers in eight lanes: an eighth of the dense work, which outweighs the idle lanes.
//
// Every sum runs in an order fixed by the sizes alone: results are bit-identical whatever the threads and the lanes. What is
// not multiplied cannot show that 0 * inf and 0 * NaN are NaN, so the functions answer 1 where that could matter, and the
// caller takes another way. NaN and infinity in the pixels or the bias pass the forward function as in torch.

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// torch's own OpenMP runtime, which it loads for all to see (libgomp; LLVM's and Intel's have this entry too). Its threads
// wait for work in a busy loop for a while, and helpers of our own would have to fight them for the cores; linking with
// -fopenmp could bring in a second runtime with the same effect. Without a runtime there is one thread.
extern "C" void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags) __attribute__((weak));

namespace {

using Index = std::int64_t;
#ifdef __AVX512F__
constexpr Index LANES = 16, GROUP = 6;  // floats in a register; kernels at a time, in 24 of 32 registers
#else
constexpr Index LANES = 8, GROUP = 3;  // in 12 of 16
#endif
typedef float f8 __attribute__((vector_size(32)));
typedef float f8u __attribute__((vector_size(32), aligned(4), may_alias));  // at any address
typedef float fv __attribute__((vector_size(4 * LANES)));
typedef std::int32_t iv __attribute__((vector_size(4 * LANES)));
typedef std::int8_t bv __attribute__((vector_size(LANES)));

#define UNROLL _Pragma("GCC unroll 16")  // arrays of vectors become registers only in unrolled loops

constexpr Index SIDE = 5, TAPS = SIDE * SIDE, ROW = 8, FRAME = (SIDE + 2) * ROW;  // FRAME: see frame_kernels
constexpr int DEAD = 4;  // in place of the winner, 0-3 in row-major order

struct Shape {
    Index batch, channels, height, width, kernels, padding, threads;  // in this order in the interface
    Index tall = height + 2 * padding, wide = width + 2 * padding;
    Index rows = (tall - SIDE + 1) / 2, columns = (wide - SIDE + 1) / 2, windows = rows * columns;
    Index image = channels * height * width, output = kernels * windows, weights = kernels * channels * TAPS;
    Index step = wide + 2, plane = tall * step;  // backward: of a row and a channel; the last window's 8 lanes fit in
    explicit Shape(const Index* n) : batch(n[0]), channels(n[1]), height(n[2]), width(n[3]), kernels(n[4]), padding(n[5]),
                                     threads(n[6]) {}
};

struct Live {  // a gradient that passes
    float gradient;
    std::int32_t offset;
};

inline f8 splat8(float v) { return f8{v, v, v, v, v, v, v, v}; }  // f8{} + v would be an addition, for the sake of -0.0
#ifdef __AVX512F__
inline fv splat(float v) { return fv{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v}; }
#else
inline fv splat(float v) { return splat8(v); }
#endif
inline f8 load(const float* from) { return *reinterpret_cast<const f8u*>(from); }
inline void add(float* to, f8 value) { *reinterpret_cast<f8u*>(to) += value; }

class Buffer {  // floats on cache lines, zero at first, and a spare line for the lanes past the end
    struct alignas(64) Line { float values[16]; };
    std::vector<Line> lines;
public:
    explicit Buffer(Index floats) : lines(floats / 16 + 2) {}
    float* floats() { return lines.data()->values; }
    fv* vectors() { return reinterpret_cast<fv*>(floats()); }
};

bool finite(const float* values, Index count) {  // without an early end, to run eight lanes at a time
    Index finite = 0;
    for (Index i = 0; i < count; ++i) finite += std::abs(values[i]) <= FLT_MAX;
    return finite == count;
}

// Calls worker(next) on up to `threads` threads; next() hands out 0, 1, ..., tasks - 1 and then -1.
template <class Worker>
void parallel(Index threads, Index tasks, const Worker& worker) {
    std::atomic<Index> counter{0};
    std::atomic<bool> failed{false};
    auto body = [&] {
        try {
            worker([&] { const Index task = counter++; return task < tasks ? task : -1; });
        } catch (const std::exception&) {
            failed = true;
        }
    };
    threads = std::min(threads, tasks);
    if (threads > 1 && GOMP_parallel)
        GOMP_parallel([](void* data) { (*static_cast<decltype(body)*>(data))(); }, &body, unsigned(threads), 0);
    else
        body();
    if (failed) throw std::bad_alloc();
}

// LANES images (the last of `count` again where there are fewer) to in[channel][row][column], inside the zero padding.
void gather(const Shape& s, const float* x, Index count, fv* in) {
    for (Index c = 0; c < s.channels; ++c)
        for (Index i = 0; i < s.height; ++i, x += s.width) {
            fv* row = in + (c * s.tall + i + s.padding) * s.wide + s.padding;
            for (Index j = 0; j < s.width; ++j)
                UNROLL for (Index lane = 0; lane < LANES; ++lane) row[j][lane] = x[std::min(lane, count - 1) * s.image + j];
        }
}

// out[value] of LANES images to the first `count` of them.
void scatter(const Shape& s, const fv* out, Index count, float* y) {
    for (Index lane = 0; lane < count; ++lane)
        for (Index value = 0; value < s.output; ++value) *y++ = out[value][lane];
}

// A row of pooling windows for K kernels and LANES images. in: first input row; weights: [channel][tap][K]; out and winner:
// at the row of the first kernel.
template <int K>
void pool_row(const Shape& s, const fv* in, const float* weights, const float* bias, fv* out, bv* winner) {
    for (Index j = 0; j < s.columns; ++j, in += 2) {
        fv sums[4][K];
        UNROLL for (int k = 0; k < K; ++k) sums[0][k] = sums[1][k] = sums[2][k] = sums[3][k] = splat(bias[k]);
        const float* weight = weights;
        for (Index c = 0; c < s.channels; ++c)
            for (Index ky = 0; ky < SIDE; ++ky) {
                const fv* row = in + (c * s.tall + ky) * s.wide;
                UNROLL for (int kx = 0; kx < SIDE; ++kx, weight += K)
                    UNROLL for (int k = 0; k < K; ++k) {
                        const fv tap = splat(weight[k]);
                        sums[0][k] += row[kx] * tap;
                        sums[1][k] += row[kx + 1] * tap;
                        sums[2][k] += row[s.wide + kx] * tap;
                        sums[3][k] += row[s.wide + kx + 1] * tap;
                    }
            }
        UNROLL for (int k = 0; k < K; ++k) {
            fv best = sums[0][k];
            iv index = {};
            UNROLL for (int n = 1; n < 4; ++n) {  // as torch: the first of equals, but the last NaN
                const iv wins = (sums[n][k] > best) | (sums[n][k] != sums[n][k]);
                best = wins ? sums[n][k] : best;
                index = wins ? iv{} + n : index;
            }
            const iv dead = best <= 0;
            out[k * s.windows + j] = dead ? fv{} : best;
            winner[k * s.windows + j] = __builtin_convertvector(dead ? iv{} + DEAD : index, bv);
        }
    }
}

constexpr decltype(&pool_row<1>) POOL_ROW[] = {nullptr,     pool_row<1>, pool_row<2>, pool_row<3>,
                                                pool_row<4>, pool_row<5>, pool_row<6>};

// For the input gradient: each kernel inside seven rows of eight, a zero row above and below, a zero before and two behind.
// What a gradient adds to the 6x6 pixels below its window are six rows of this, from the first or second row and column on,
// so that the kernel comes to lie where the winner is. Layout [channel][kernel][FRAME].
void frame_kernels(const Shape& s, const float* w, float* framed) {
    for (Index k = 0; k < s.kernels; ++k)
        for (Index c = 0; c < s.channels; ++c)
            for (Index tap = 0; tap < TAPS; ++tap)
                framed[(c * s.kernels + k) * FRAME + (tap / SIDE + 1) * ROW + tap % SIDE + 1] = *w++;
}

// Lists the live gradients of one image and `kernels` kernels, window by window, column by column; those of window n end at
// ends[n]. Each gets the offset that its window, kernel and winner add up to.
struct Offsets { Index row, column, kernel, winner[5]; };
void list_live(const Shape& s, const float* g, const std::int8_t* winner, Index kernels, const Offsets& offsets, Live* live,
               Index* ends) {
    Index count = 0;
    for (Index j = 0; j < s.columns; ++j)
        for (Index i = 0; i < s.rows; ++i) {
            Index at = i * s.columns + j, offset = i * offsets.row + j * offsets.column;
            for (Index k = 0; k < kernels; ++k, at += s.windows, offset += offsets.kernel) {
                const int won = winner[at * LANES];
                live[count] = {g[at], std::int32_t(offset + offsets.winner[won])};  // without a branch: always written,
                count += won != DEAD;                                              // but kept only if live
            }
            *ends++ = count;
        }
}

// Input gradient of C channels of one image, added to padded planes.
template <int C>
void input_gradient(const Shape& s, const Live* live, const Index* ends, const float* framed, float* planes) {
    const Index channel = s.kernels * FRAME;
    const Live* entry = live;
    for (Index j = 0; j < s.columns; ++j) {
        f8 rows[C][6] = {};
        float* to = planes + 2 * j;
        for (Index i = 0; i < s.rows; ++i, to += 2 * s.step) {
            for (const Live* end = live + *ends++; entry < end; ++entry)
                UNROLL for (int c = 0; c < C; ++c)
                    UNROLL for (int r = 0; r < 6; ++r)
                        rows[c][r] += splat8(entry->gradient) * load(framed + c * channel + entry->offset + r * ROW);
            UNROLL for (int c = 0; c < C; ++c) {  // the next window is two rows further down
                UNROLL for (int r = 0; r < 2; ++r) add(to + c * s.plane + r * s.step, rows[c][r]);
                UNROLL for (int r = 0; r < 4; ++r) rows[c][r] = rows[c][r + 2];
                rows[c][4] = rows[c][5] = f8{};
            }
        }
        UNROLL for (int c = 0; c < C; ++c)
            UNROLL for (int r = 0; r < 4; ++r) add(to + c * s.plane + r * s.step, rows[c][r]);
    }
}

// One image's part of the gradient of one kernel, C channels, added to sums[C][5][8]; of the lanes the last three are void.
template <int C>
void weight_gradient(const Shape& s, const Live* live, const Live* end, const float* planes, float* sums) {
    f8 rows[C][SIDE] = {};
    for (; live < end; ++live)
        UNROLL for (int c = 0; c < C; ++c)
            UNROLL for (int ky = 0; ky < SIDE; ++ky)
                rows[c][ky] += splat8(live->gradient) * load(planes + live->offset + c * s.plane + ky * s.step);
    UNROLL for (int c = 0; c < C; ++c)
        UNROLL for (int ky = 0; ky < SIDE; ++ky) add(sums + (c * SIDE + ky) * ROW, rows[c][ky]);
}

// One image's rows into their places within padded planes, or back.
void copy_rows(const Shape& s, float* planes, float* image, bool back) {
    for (Index c = 0; c < s.channels; ++c)
        for (Index i = 0; i < s.height; ++i, image += s.width) {
            float* row = planes + c * s.plane + (i + s.padding) * s.step + s.padding;
            std::memcpy(back ? image : row, back ? row : image, s.width * sizeof(float));
        }
}

}  // namespace

extern "C" {

// sizes: the first line of Shape. x (batch, channels, height, width), w (kernels, channels, 5, 5), bias (kernels) or null;
// y (batch, kernels, rows, columns); winners: for the backward pass, as many bytes as y has values for the batch rounded up
// to sixteens. Returns 0; 1 if w is not finite, with nothing written; 2 if memory ran out.
int csnb_forward(const Index* sizes, const float* x, const float* w, const float* bias, float* y, std::int8_t* winners) try {
    const Shape s(sizes);
    if (!finite(w, s.weights)) return 1;
    const Index groups = (s.kernels + GROUP - 1) / GROUP;
    auto first = [&](Index group) { return group * s.kernels / groups; };  // of groups of nearly equal sizes
    std::vector<float> packed, offsets(s.kernels);                         // packed: [group][channel][tap][kernel]
    if (bias) offsets.assign(bias, bias + s.kernels);
    for (Index group = 0; group < groups; ++group)
        for (Index tap = 0; tap < s.channels * TAPS; ++tap)
            for (Index k = first(group); k < first(group + 1); ++k) packed.push_back(w[k * s.channels * TAPS + tap]);
    parallel(s.threads, (s.batch + LANES - 1) / LANES, [&](auto next) {
        Buffer in(s.channels * s.tall * s.wide * LANES), out((s.output + LANES) * LANES);
        for (Index block; (block = next()) >= 0;) {
            const Index count = std::min(LANES, s.batch - block * LANES);
            bv* winner = reinterpret_cast<bv*>(winners) + block * s.output;
            gather(s, x + block * LANES * s.image, count, in.vectors());
            for (Index i = 0; i < s.rows; ++i)
                for (Index group = 0; group < groups; ++group) {
                    const Index k = first(group), at = k * s.windows + i * s.columns;
                    POOL_ROW[first(group + 1) - k](s, in.vectors() + 2 * i * s.wide, &packed[k * s.channels * TAPS],
                                                   &offsets[k], out.vectors() + at, winner + at);
                }
            scatter(s, out.vectors(), count, y + block * LANES * s.output);
        }
    });
    return 0;
} catch (const std::exception&) {
    return 2;
}

// Arrays as above, w finite; gradient: of y. Writes dx and dw, each unless null; with dw also dbias, unless null.
// Returns 0; 1 if gradient or, for dw, x is not finite, 2 if memory ran out: then the results are void.
int csnb_backward(const Index* sizes, float* x, const float* w, const float* gradient, const std::int8_t* winners, float* dx,
                  float* dw, float* dbias) try {
    const Shape s(sizes);
    if (!finite(gradient, s.batch * s.output) || (dw && !finite(x, s.batch * s.image))) return 1;
    // A task is a chunk of images with sums of its own: for each kernel, 5 rows a channel and one for the bias. How many
    // there are depends on the sizes alone (no more than 32 MB, or four), and they are added up in order.
    const Index kernel_sums = (s.channels * SIDE + 1) * ROW, chunk_sums = s.kernels * kernel_sums;
    const Index most = dw ? std::clamp<Index>((Index{1} << 23) / chunk_sums, 4, 64) : 1024;
    const Index chunk = std::max<Index>(4, (s.batch + most - 1) / most), chunks = (s.batch + chunk - 1) / chunk;
    Buffer framed(dx ? s.channels * s.kernels * FRAME : 0), sums(dw ? (chunks + 1) * chunk_sums : 0);
    if (dx) frame_kernels(s, w, framed.floats());
    const Offsets for_pixels{0, 0, FRAME, {ROW + 1, ROW, 1, 0, 0}};
    const Offsets for_weights{2 * s.step, 2, 0, {0, 1, s.step, s.step + 1, 0}};
    parallel(s.threads, chunks, [&](auto next) {
        Buffer buffer(s.channels * s.plane);
        float* planes = buffer.floats();
        std::vector<Live> live(s.output + 1);
        std::vector<Index> ends(s.windows);
        for (Index task; (task = next()) >= 0;)
            for (Index n = task * chunk; n < std::min(s.batch, (task + 1) * chunk); ++n) {
                const float* g = gradient + n * s.output;
                const std::int8_t* winner = winners + n / LANES * LANES * s.output + n % LANES;
                if (dx) {
                    list_live(s, g, winner, s.kernels, for_pixels, live.data(), ends.data());
                    std::fill_n(planes, s.channels * s.plane, 0.0f);
                    for (Index c = 0; c < s.channels; c += 2)
                        (c + 1 < s.channels ? input_gradient<2> : input_gradient<1>)(
                            s, live.data(), ends.data(), framed.floats() + c * s.kernels * FRAME, planes + c * s.plane);
                    copy_rows(s, planes, dx + n * s.image, true);
                }
                if (!dw) continue;
                std::fill_n(planes, s.channels * s.plane, 0.0f);
                copy_rows(s, planes, x + n * s.image, false);
                float* sum = sums.floats() + (task + 1) * chunk_sums;  // the first place is for the total
                for (Index k = 0; k < s.kernels; ++k, sum += kernel_sums, g += s.windows, winner += s.windows * LANES) {
                    list_live(s, g, winner, 1, for_weights, live.data(), ends.data());
                    const Live* end = live.data() + ends.back();
                    for (Index c = 0; c < s.channels; c += 2)
                        (c + 1 < s.channels ? weight_gradient<2> : weight_gradient<1>)(
                            s, live.data(), end, planes + c * s.plane, sum + c * SIDE * ROW);
                    for (const Live* entry = live.data(); entry < end; ++entry)
                        sum[s.channels * SIDE * ROW] += entry->gradient;
                }
            }
    });
    if (!dw) return 0;
    float* total = sums.floats();
    for (Index i = chunk_sums; i < (chunks + 1) * chunk_sums; ++i) total[i % chunk_sums] += total[i];
    for (Index k = 0; k < s.kernels; ++k, total += kernel_sums) {
        for (Index i = 0; i < s.channels * TAPS; ++i) *dw++ = total[i / SIDE * ROW + i % SIDE];
        if (dbias) dbias[k] = total[s.channels * SIDE * ROW];
    }
    return 0;
} catch (const std::exception&) {
    return 2;
}

}  // extern "C"
