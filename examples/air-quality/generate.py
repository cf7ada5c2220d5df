#!/usr/bin/env python3
"""Prints simulated hours of a street-side air station as recorded MQTT messages, one JSON object a line.

Traffic peaks twice a day; the metal-oxide channels follow it, temperature and humidity follow the sun.
Like the real thing the stream has gaps, late and repeated hours, and -200 where a channel gave nothing. The same seed
gives the same bytes. Feed it to `dunlind replay`, or publish it with any MQTT client. Needs nothing but Python 3.

  generate.py [--seed 7] [--count 1000]
"""
import argparse
import json
import math
import random

START = 1_741_564_800  # Monday 2025-03-10 00:00 UTC
MISSING = -200


def hours(rng, count):
    """Yields the eight channels for each hour, by SenML record name."""
    weather = 0.0
    for step in range(count):
        hour = step % 24
        rush = math.exp(-((hour - 8.5) ** 2) / 5) + 1.1 * math.exp(-((hour - 19) ** 2) / 8)
        traffic = max(0.05, (0.35 + rush) * (0.6 if step // 24 % 7 >= 5 else 1.0) + rng.gauss(0, 0.08))
        weather += rng.gauss(0, 0.6) - 0.03 * weather
        celsius = 16 + 6 * math.sin((hour - 9) / 24 * 2 * math.pi) + weather
        relative = min(85.0, max(12.0, 52 - 2.0 * (celsius - 16) + rng.gauss(0, 2)))
        saturated = 6.112 * math.exp(17.62 * celsius / (243.12 + celsius))
        yield {
            "PT08_S1_CO": round(860 + 360 * traffic + rng.gauss(0, 20)),
            "PT08_S2_NMHC": round(650 + 420 * traffic + rng.gauss(0, 20)),
            "PT08_S3_NOx": round(1180 - 380 * traffic + rng.gauss(0, 25)),
            "PT08_S4_NO2": round(1330 + 320 * traffic + 8 * (celsius - 16) + rng.gauss(0, 25)),
            "PT08_S5_O3": round(640 + 560 * traffic + rng.gauss(0, 40)),
            "T": round(celsius, 1),
            "RH": round(relative, 1),
            "AH": round(relative / 100 * saturated * 216.7 / (celsius + 273.15) / 10, 4),
        }


def messages(seed, count, station):
    rng = random.Random(seed)
    held = None
    for step, channels in enumerate(hours(rng, count)):
        at = START + step * 3600
        if step % 300 in range(200, 203):  # the station is serviced
            continue
        chance = rng.random()
        if chance > 0.993:
            channels[rng.choice(list(channels))] = MISSING
        elif chance > 0.990:
            channels = dict.fromkeys(channels, MISSING)
        pack = [{"n": name, "v": value} for name, value in channels.items()]
        pack[0] = {"bn": f"{station}:", "bt": at} | pack[0]
        line = (at, pack)
        if chance < 0.003 and held is None:
            held = line  # arrives after its successor
            continue
        yield line
        if held is not None:
            yield held
            held = None
        if 0.5 < chance < 0.503:
            yield line  # delivered twice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--station", default="station-1")
    a = parser.parse_args()
    for at, pack in messages(a.seed, a.count, a.station):
        print(json.dumps({"topic": f"city/{a.station}/senml", "arrival_ms": at * 1000 + 900, "payload": json.dumps(pack)}))


main()
