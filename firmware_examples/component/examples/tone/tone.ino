// What the serial monitor hears: 16-bit mono PCM of 16 kHz comes in over Serial, a line for every half second goes out.
#include <eser.h>
#include <eser_model.h>

static uint64_t memory[ESER_STATE_BYTES / 8];
static eser *stream;
static int16_t chunk[160];
static uint32_t chunks = 0;

void setup() {
    Serial.begin(921600);
    const eser_status status = eser_init(&stream, &eser_default_model, memory, sizeof memory);
    if (status != ESER_OK)
        Serial.println(eser_strerror(status));
}

void loop() {
    if (Serial.readBytes((char *)chunk, sizeof chunk) != sizeof chunk)
        return;
    eser_feed_i16(stream, chunk, 160);
    eser_result result;
    if (++chunks % 50 == 0 && eser_estimate(stream, &result) == ESER_OK)
        Serial.println(result.label);
}
