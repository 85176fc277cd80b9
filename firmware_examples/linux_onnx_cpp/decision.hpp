// From the network's outputs to probabilities, as edge-ser makes them in Python and in C.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// Bytes from base64 without padding.
inline std::vector<std::uint8_t> from_base64(const std::string &text) {
    static const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::vector<std::uint8_t> bytes;
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < text.size(); i++) {
        bits = bits << 6 | static_cast<std::uint32_t>(digits.find(text[i]));
        if (i % 4 != 0)
            bytes.push_back(static_cast<std::uint8_t>(bits >> (6 - 2 * (i % 4))));
    }
    return bytes;
}

// How far mean and standard deviation over time of n encoder vectors are from the training speech's. 1 is the median of dev, 0.5 the least.
inline float distance_of(const float *encoded, std::size_t n, std::size_t size, const nlohmann::json &distance) {
    const std::vector<std::uint8_t> usual = from_base64(distance.at("mean"));
    const double unit = distance.at("unit"), scale = distance.at("scale"), count = static_cast<double>(n);
    double total = 0.0;
    for (std::size_t i = 0; i < size; i++) {
        double mean = 0.0, variance = 0.0;
        for (std::size_t t = 0; t < n; t++)
            mean += static_cast<double>(encoded[t * size + i]) / count;
        for (std::size_t t = 0; t < n; t++)
            variance += std::pow(static_cast<double>(encoded[t * size + i]) - mean, 2) / count;
        total += std::pow(mean - unit * usual.at(i), 2) + std::pow(std::sqrt(variance) - unit * usual.at(size + i), 2);
    }
    return static_cast<float>(std::max(0.5, scale * std::sqrt(total)));
}

// The softmax of n logits divided by the temperature.
inline std::vector<float> softmax(const float *logits, std::size_t n, float temperature) {
    const float highest = *std::max_element(logits, logits + n);
    std::vector<float> p(n);
    std::transform(logits, logits + n, p.begin(), [&](float x) { return std::exp((x - highest) / temperature); });
    float sum = 0.0f;
    for (const float x : p)
        sum += x;
    for (float &x : p)
        x /= sum;
    return p;
}
