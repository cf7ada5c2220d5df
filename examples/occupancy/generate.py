#!/usr/bin/env python3
"""Prints the simulated day of an office as recorded MQTT messages, one JSON object a line.

People come at half past eight and leave at six: they switch the light on and breathe, so carbon dioxide and humidity rise.
Like the real thing the stream has gaps, late, repeated and incomplete readings. The same seed gives the same bytes.
Feed it to `dunlind replay`, or publish it with any MQTT client. Needs nothing but Python 3.

  generate.py [--seed 7] [--count 2000]
"""
import argparse
import json
import math
import random

START_MS = 1_741_564_800_000  # Monday 2025-03-10 00:00 UTC
STEP_MS = 60_000


def humidity_ratio(celsius, relative):
    """Returns kilograms of water in a kilogram of dry air at sea level (Magnus formula)."""
    pressure = relative / 100 * 611.2 * math.exp(17.62 * celsius / (243.12 + celsius))
    return 0.622 * pressure / (101_325 - pressure)


def rooms(rng, count):
    """Yields the five quantities for each minute."""
    celsius, relative, co2 = 20.4, 24.0, 450.0
    for step in range(count):
        minute = (step + 480) % 1440  # begins at eight in the morning
        day, occupied = 420 <= minute < 1140, 510 <= minute < 1080 and not 720 <= minute < 765
        celsius += ((22.4 if occupied else 20.2) - celsius) * 0.01 + rng.gauss(0, 0.01)
        relative += ((28.0 if occupied else 23.5) - relative) * 0.01 + rng.gauss(0, 0.03)
        co2 += ((1050.0 if occupied else 440.0) - co2) * 0.02 + rng.gauss(0, 3)
        sun = 90 * math.sin((minute - 420) / 720 * math.pi) if day else 0.0
        light = max(0.0, sun + (430.0 if occupied else 0.0) + (rng.gauss(0, 6) if day else 0.0))
        yield round(celsius, 2), round(relative, 2), round(light, 1), round(co2, 1), round(humidity_ratio(celsius, relative), 6)


def messages(seed, count):
    rng = random.Random(seed)
    names = ("temperature", "humidity", "illuminance", "co2", "humidity_ratio")
    held = None
    for step, values in enumerate(rooms(rng, count)):
        at = START_MS + 8 * 3_600_000 + step * STEP_MS
        if step % 900 in range(600, 670):  # the battery is changed
            continue
        payload = dict(zip(names, values)) | {"last_seen": at}
        chance = rng.random()
        if chance > 0.997:
            del payload["co2"]  # the sensor warms up
        line = (at, payload)
        if chance < 0.002 and held is None:
            held = line  # arrives after its successor
            continue
        yield line
        if held is not None:
            yield held
            held = None
        if 0.5 < chance < 0.502:
            yield line  # delivered twice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--room", default="office-1")
    a = parser.parse_args()
    for at, payload in messages(a.seed, a.count):
        print(json.dumps({"topic": f"zigbee2mqtt/{a.room}", "arrival_ms": at + 300, "payload": json.dumps(payload)}))


main()
