// The exported .onnx in C++: features from edge-ser's C core, the network in ONNX Runtime.
//
//     ./linux_onnx_cpp edge-ser.onnx < recording.raw        (16 kHz mono signed 16-bit little-endian)
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "decision.hpp"
#include "eser_parts.h"

namespace {

constexpr std::size_t max_frames = 1400;  // 14 s
constexpr float silence_db = -99.999f;

const OrtApi &ort() {
    static const OrtApi *const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr)
        throw std::runtime_error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is too old for this program");
    return *api;
}

void check(OrtStatus *status) {
    if (status == nullptr)
        return;
    const std::string message = ort().GetErrorMessage(status);
    ort().ReleaseStatus(status);
    throw std::runtime_error(message);
}

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T *)>;

// What make(&object) makes, to be released by release.
template <typename T, typename Make>
Owned<T> own(void (*release)(T *), Make make) {
    T *object = nullptr;
    check(make(&object));
    return Owned<T>(object, release);
}

std::vector<float> read_samples() {
    const std::vector<char> bytes{std::istreambuf_iterator<char>(std::cin), {}};
    std::vector<float> samples(bytes.size() / 2);
    for (std::size_t i = 0; i < samples.size(); i++) {
        // A plain char is signed on x86 and unsigned on Arm.
        const int low = static_cast<unsigned char>(bytes[2 * i]), high = static_cast<signed char>(bytes[2 * i + 1]);
        samples[i] = static_cast<float>(256 * high + low) / 32768.0f;
    }
    if (samples.empty())
        throw std::runtime_error("no samples on standard input; expected 16 kHz mono signed 16-bit little-endian");
    return samples;
}

// [T][128] in dB: all frames, of more than 14 s those of the middle. Less than 0.52 s is padded with silence.
std::vector<float> features(std::vector<float> samples) {
    samples.resize(std::max<std::size_t>(samples.size(), ESER_MIN_SAMPLES));
    const std::size_t all = 1 + (samples.size() - ESER_FRAME) / ESER_HOP, n = std::min(all, max_frames);
    const std::size_t first = (all - n) / 2 / ESER_STRIDE * ESER_STRIDE;
    std::vector<float> db(n * ESER_N_BINS);
    eser_scratch scratch;
    for (std::size_t i = 0; i < n; i++)
        eser_features_scalar(&samples[(first + i) * ESER_HOP], &db[i * ESER_N_BINS], &scratch);
    if (*std::max_element(db.begin(), db.end()) <= silence_db)
        throw std::runtime_error("the recording is digital silence; expected some speech");
    return db;
}

// The manifest that every model file carries: labels, temperature, distance, and what model card there is.
nlohmann::json read_manifest(const OrtSession *session, OrtAllocator *allocator) {
    const auto metadata = own<OrtModelMetadata>(ort().ReleaseModelMetadata,
                                                [&](auto **p) { return ort().SessionGetModelMetadata(session, p); });
    char *text = nullptr;
    check(ort().ModelMetadataLookupCustomMetadataMap(metadata.get(), allocator, "edge_ser", &text));
    if (text == nullptr)
        throw std::runtime_error("the file has no edge_ser manifest; expected a model that edge-ser export wrote");
    const auto manifest = nlohmann::json::parse(text);
    check(ort().AllocatorFree(allocator, text));
    return manifest;
}

void answer(const char *path) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // or ONNX Runtime from 1.29 on reports to its makers
    const auto env = own<OrtEnv>(ort().ReleaseEnv, [](auto **p) { return ort().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edge-ser", p); });
    const auto options = own<OrtSessionOptions>(ort().ReleaseSessionOptions, [](auto **p) { return ort().CreateSessionOptions(p); });
    check(ort().SetIntraOpNumThreads(options.get(), 1));
    const auto session = own<OrtSession>(ort().ReleaseSession,
                                         [&](auto **p) { return ort().CreateSession(env.get(), path, options.get(), p); });
    OrtAllocator *allocator = nullptr;
    check(ort().GetAllocatorWithDefaultOptions(&allocator));
    const auto manifest = read_manifest(session.get(), allocator);
    if (manifest.at("front_end").at("name") != "logmel-v1")
        throw std::runtime_error("the model wants another front end than logmel-v1");

    const auto memory = own<OrtMemoryInfo>(ort().ReleaseMemoryInfo, [](auto **p) {
        return ort().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, p);
    });
    std::vector<float> db = features(read_samples());
    float nothing = 0.0f;
    const auto tensor = [&](float *data, std::size_t rows, std::size_t columns) {
        const std::array<int64_t, 3> shape{1, static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
        return own<OrtValue>(ort().ReleaseValue, [&](auto **p) {
            return ort().CreateTensorWithDataAsOrtValue(memory.get(), data, rows * columns * sizeof(float), shape.data(),
                                                        shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, p);
        });
    };
    const auto frames = tensor(db.data(), db.size() / ESER_N_BINS, ESER_N_BINS), past = tensor(&nothing, 0, ESER_VECTOR);
    const std::array<const OrtValue *, 2> inputs{frames.get(), past.get()};
    const std::array<const char *, 2> input_names{"features", "past"};
    const std::array<const char *, 2> output_names{"logits", "encoded"};
    std::array<OrtValue *, 2> made{};
    check(ort().Run(session.get(), nullptr, input_names.data(), inputs.data(), inputs.size(), output_names.data(), made.size(),
                    made.data()));
    const Owned<OrtValue> logits(made[0], ort().ReleaseValue), encoded(made[1], ort().ReleaseValue);
    const auto values = [](const Owned<OrtValue> &of) {
        float *at = nullptr;
        check(ort().GetTensorMutableData(of.get(), reinterpret_cast<void **>(&at)));
        return at;
    };

    const auto labels = manifest.at("labels").get<std::vector<std::string>>();
    const std::size_t n_vectors = (db.size() / ESER_N_BINS - ESER_FIRST_FRAMES) / ESER_STRIDE + 1;
    const float distance = distance_of(values(encoded), n_vectors, ESER_VECTOR, manifest.at("distance"));
    const std::vector<float> p = softmax(values(logits), labels.size(), manifest.at("temperature").get<float>() * distance);
    std::printf("%s\n", labels[static_cast<std::size_t>(std::max_element(p.begin(), p.end()) - p.begin())].c_str());
    for (std::size_t i = 0; i < p.size(); i++)
        std::printf("  %s %.1f %%\n", labels[i].c_str(), static_cast<double>(100.0f * p[i]));
}

}  // namespace

int main(int argc, char **argv) try {
    if (argc != 2)
        return std::fprintf(stderr, "usage: %s MODEL.onnx < samples, raw 16 kHz mono signed 16-bit\n", argv[0]), 2;
    answer(argv[1]);
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
}
