// Loops of the index builders that NumPy runs slowly: shuffling, cutting, blending, packing.
// megatron/data/kernels.py holds a NumPy twin of each, says what they compute, and checks the arguments.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// MT19937 (Matsumoto, Nishimura 1998), continuing from and handing back the state of numpy.random.RandomState.
class Twister {
  public:
    Twister(const uint32_t* key, int position) : position_(position) { std::copy(key, key + kSize, key_.begin()); }

    uint32_t next() {
        if (position_ == kSize) refill();
        uint32_t y = key_[position_++];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        return y ^ (y >> 18);
    }

    // Uniform in 0..last, by rejection under a mask, as numpy's random_interval draws it.
    uint32_t upto(uint32_t last, uint32_t mask) {
        uint32_t value;
        while ((value = next() & mask) > last) {
        }
        return value;
    }

    void save(uint32_t* key) const { std::copy(key_.begin(), key_.end(), key); }
    int position() const { return position_; }

  private:
    static constexpr int kSize = 624;
    static constexpr int kShift = 397;

    static uint32_t twist(uint32_t high, uint32_t low) {
        const uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
        return (y >> 1) ^ ((0u - (y & 1u)) & 0x9908b0dfu);
    }

    void refill() {
        int i = 0;
        for (; i < kSize - kShift; ++i) key_[i] = key_[i + kShift] ^ twist(key_[i], key_[i + 1]);
        for (; i < kSize - 1; ++i) key_[i] = key_[i + kShift - kSize] ^ twist(key_[i], key_[i + 1]);
        key_[kSize - 1] = key_[kShift - 1] ^ twist(key_[kSize - 1], key_[0]);
        position_ = 0;
    }

    std::array<uint32_t, kSize> key_;
    int position_;
};

uint32_t mask_above(uint32_t value) {
    for (int shift = 1; shift < 32; shift *= 2) value |= value >> shift;
    return value;
}

// The swaps of RandomState.shuffle, drawn some way ahead so that their cache lines are under way before they are used.
template <typename T>
int shuffle(Array<T> values, Array<uint32_t> key, int position) {
    constexpr int64_t kAhead = 64;
    T* data = values.mutable_data();
    uint32_t* state = key.mutable_data();
    const int64_t size = values.size();
    py::gil_scoped_release released;
    Twister twister(state, position);
    std::array<uint32_t, kAhead> partners;
    int64_t i = size - 1;
    while (i > 0) {
        const int64_t count = std::min<int64_t>(kAhead, i);
        uint32_t mask = mask_above(static_cast<uint32_t>(i));
        for (int64_t k = 0; k < count; ++k) {
            const uint32_t last = static_cast<uint32_t>(i - k);
            if (last <= mask >> 1) mask = mask_above(last);
            partners[k] = twister.upto(last, mask);
            __builtin_prefetch(data + partners[k], 1, 1);
        }
        for (int64_t k = 0; k < count; ++k) std::swap(data[i - k], data[partners[k]]);
        i -= count;
    }
    twister.save(state);
    return twister.position();
}

// Where `rows.size` samples begin, from (position, offset) on; returns where the sample after them begins.
template <typename D, typename R>
std::pair<int64_t, int64_t> cut(Array<D> documents, Array<int32_t> sizes, int64_t seq_length, int64_t position,
                                int64_t offset, Array<R> rows) {
    constexpr int64_t kAhead = 32;
    const D* row = documents.data();
    // The sizes of a mapped index start at byte 34: unaligned, hence the copies.
    const char* packed_sizes = static_cast<const char*>(static_cast<const py::array&>(sizes).data());
    const auto size_of = [packed_sizes](D sequence) {
        int32_t size;
        std::memcpy(&size, packed_sizes + sizeof(size) * sequence, sizeof(size));
        return size;
    };
    const int64_t entries = documents.size();
    const int64_t count = rows.shape(0);
    R* out = rows.mutable_data();
    py::gil_scoped_release released;
    for (int64_t sample = 0; sample < count; ++sample) {
        if (position >= entries) throw std::runtime_error("the documents end before the samples do");
        out[2 * sample] = static_cast<R>(position);
        out[2 * sample + 1] = static_cast<R>(offset);
        offset += seq_length;
        for (int32_t size; position < entries && offset >= (size = size_of(row[position])); ++position) {
            offset -= size;
            if (position + kAhead < entries) __builtin_prefetch(packed_sizes + sizeof(int32_t) * row[position + kAhead], 0, 1);
        }
    }
    return {position, offset};
}

// The set that lags furthest behind weight * step, at steps first..first + chosen.size; `taken` counts on.
template <typename C>
void blend(Array<double> weights, Array<int64_t> taken, int64_t first, Array<C> chosen) {
    const double* weight = weights.data();
    int64_t* count = taken.mutable_data();
    C* out = chosen.mutable_data();
    const int64_t sets = weights.size();
    const int64_t steps = chosen.size();
    py::gil_scoped_release released;
    for (int64_t step = 0; step < steps; ++step) {
        const double due = std::max(static_cast<double>(first + step), 1.0);
        int64_t best = 0;
        double lag = weight[0] * due - static_cast<double>(count[0]);
        for (int64_t k = 1; k < sets; ++k) {
            const double other = weight[k] * due - static_cast<double>(count[k]);
            if (other > lag) {
                lag = other;
                best = k;
            }
        }
        out[step] = static_cast<C>(best);
        ++count[best];
    }
}

// Positions in `lengths` at which a new sample starts when documents are laid end to end up to `room` tokens.
Array<int64_t> pack(Array<int32_t> lengths, int64_t room) {
    std::vector<int64_t> starts;
    {
        const int32_t* length = lengths.data();
        const int64_t documents = lengths.size();
        py::gil_scoped_release released;
        int64_t filled = 0;
        for (int64_t k = 0; k < documents; ++k) {
            if (filled == 0 || filled + length[k] > room) {
                starts.push_back(k);
                filled = 0;
            }
            filled += length[k];
        }
    }
    Array<int64_t> result(static_cast<py::ssize_t>(starts.size()));
    std::copy(starts.begin(), starts.end(), result.mutable_data());
    return result;
}

}  // namespace

// Nothing is converted on the way in: a copy would swallow what is written to it.
template <typename Module, typename Function, size_t... I>
void define(Module& module, const char* name, Function function, std::index_sequence<I...>) {
    module.def(name, function, ((void)I, py::arg().noconvert())...);
}

PYBIND11_MODULE(_kernels, module) {
    define(module, "shuffle", &shuffle<int32_t>, std::make_index_sequence<3>());
    define(module, "shuffle", &shuffle<uint32_t>, std::make_index_sequence<3>());
    define(module, "shuffle", &shuffle<int64_t>, std::make_index_sequence<3>());
    define(module, "cut", &cut<int32_t, int32_t>, std::make_index_sequence<6>());
    define(module, "cut", &cut<int32_t, int64_t>, std::make_index_sequence<6>());
    define(module, "cut", &cut<int64_t, int32_t>, std::make_index_sequence<6>());
    define(module, "cut", &cut<int64_t, int64_t>, std::make_index_sequence<6>());
    define(module, "blend", &blend<uint8_t>, std::make_index_sequence<4>());
    define(module, "blend", &blend<int16_t>, std::make_index_sequence<4>());
    define(module, "pack", &pack, std::make_index_sequence<2>());
}
