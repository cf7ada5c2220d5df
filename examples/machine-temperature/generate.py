#!/usr/bin/env python3
"""Prints simulated bearing temperatures as recorded MQTT messages, one JSON object a line.

A machine warms towards a load-dependent temperature and cools slowly; now and then the cooling fails for some hours.
Like the real thing the stream has gaps, late and repeated readings. The same seed gives the same bytes.
Feed it to `dunlind replay`, or publish it with any MQTT client. Needs nothing but Python 3.

  generate.py [--seed 7] [--count 2000] [--failures 2]
"""
import argparse
import datetime as dt
import json
import random

START = dt.datetime(2025, 3, 3, 6, 0, tzinfo=dt.timezone.utc)
STEP = dt.timedelta(minutes=5)


def temperatures(rng, count, failures):
    """Yields one temperature in degrees Fahrenheit for each step of five minutes."""
    starts = {count * (k + 1) // (failures + 1) for k in range(failures)}
    value, load, failing = 82.0, 84.0, 0
    for step in range(count):
        if rng.random() < 1 / 60:  # a new job every few hours
            load = rng.uniform(74.0, 92.0)
        if step in starts:
            failing = 40
        target = load + (70.0 if failing else 0.0)
        value += (target - value) * 0.05
        failing = max(0, failing - 1)
        yield value + rng.gauss(0.0, 0.7)


def messages(seed, count, failures):
    rng = random.Random(seed)
    held = None
    for step, value in enumerate(temperatures(rng, count, failures)):
        at = START + step * STEP
        if step % 700 in range(400, 406):  # half an hour without a network
            continue
        line = (at, {"ts": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "value": round(value, 3)})
        chance = rng.random()
        if chance < 0.002 and held is None:
            held = line  # arrives after its successor
            continue
        yield line
        if held is not None:
            yield held
            held = None
        if chance > 0.998:
            yield line  # delivered twice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--failures", type=int, default=2)
    parser.add_argument("--machine", default="press-7")
    a = parser.parse_args()
    for at, payload in messages(a.seed, a.count, a.failures):
        arrival_ms = int(at.timestamp() * 1000) + 200
        print(json.dumps({"topic": f"plant/{a.machine}/temperature", "arrival_ms": arrival_ms, "payload": json.dumps(payload)}))


main()
