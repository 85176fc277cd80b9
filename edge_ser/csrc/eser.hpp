/* eser.h for C++17: a stream that owns its memory, samples as anything with data() and size(), answers as eser_result.
 *
 *     #include "eser.hpp"
 *     #include "eser_model.h"
 *
 *     static eser_cpp::Stream stream(eser_default_model);  // 90 KB or less inside: static, not on a small stack
 *     std::array<int16_t, 160> chunk;                       // 10 ms of 16 kHz mono
 *     stream.feed(chunk);
 *     if (const auto answer = stream.finish())
 *         say(answer->label);
 *     stream.reset();
 *
 * It throws nothing and allocates nothing, so -fno-exceptions and -fno-rtti do. One thread at a time may use a stream.
 */
#ifndef ESER_HPP
#define ESER_HPP

#include <cstddef>
#include <cstdint>
#include <optional>

#include "eser.h"

namespace eser_cpp {

/* A stream in memory of its own. It can be neither copied nor moved, as the C stream points into that memory. */
class Stream {
  public:
    /* The model must outlive the stream. What goes wrong, every other call answers, as status() does. */
    explicit Stream(const eser_model &model) noexcept : status_(eser_init(&stream_, &model, memory_, sizeof memory_)) {}
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    /* What the last call answered. */
    eser_status status() const noexcept { return status_; }
    /* The same as a sentence. */
    const char *message() const noexcept { return eser_strerror(status_); }

    /* Take the next n samples, 16 kHz mono, int16 or float with full scale 1.0; true if they were taken. */
    bool feed(const std::int16_t *samples, std::size_t n) noexcept {
        return stream_ != nullptr && (status_ = eser_feed_i16(stream_, samples, n)) == ESER_OK;
    }
    bool feed(const float *samples, std::size_t n) noexcept {
        return stream_ != nullptr && (status_ = eser_feed_f32(stream_, samples, n)) == ESER_OK;
    }
    /* The same of a std::array, std::vector, std::span ... */
    template <typename Samples>
    auto feed(const Samples &samples) noexcept -> decltype(feed(samples.data(), samples.size())) {
        return feed(samples.data(), samples.size());
    }

    /* How it sounds so far; nothing while there is no answer, and status() says why. */
    std::optional<eser_result> estimate() noexcept { return answer(eser_estimate); }
    /* End the utterance: how all of it sounded. */
    std::optional<eser_result> finish() noexcept { return answer(eser_finish); }
    /* Begin the next utterance. */
    bool reset() noexcept { return stream_ != nullptr && (status_ = eser_reset(stream_)) == ESER_OK; }

  private:
    std::optional<eser_result> answer(eser_status (*ask)(eser *, eser_result *)) noexcept {
        eser_result result;
        if (stream_ == nullptr || (status_ = ask(stream_, &result)) != ESER_OK)
            return std::nullopt;
        return result;
    }

    alignas(8) unsigned char memory_[ESER_STATE_BYTES];
    eser *stream_ = nullptr;
    eser_status status_;
};

} // namespace eser_cpp
#endif
