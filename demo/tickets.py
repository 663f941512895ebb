"""Writes the open tickets of a help desk as CSV (id, text) to standard output, as of a minute: from one minute to the next
some are closed, some are new, and to some the customer adds a sentence.

usage: tickets.py MINUTE, from 0
"""

import csv
import random
import sys

FIRST, NEW, CLOSED, CHANGED = 400, 12, 9, 5
PARTS = ["basket", "invoice page", "newsletter", "gift card page", "app", "parcel tracking", "wish list", "chat"]
SAID = [
    "The {part} has not loaded since I placed order {order}.",
    "The {part} shows the wrong total for order {order}.",
    "How do I change my address in the {part}? My order is {order}.",
    "How do I get order {order} into the {part}?",
    "Thank you for order {order}, the new {part} is a joy!",
]


def opened(number):
    dice = random.Random(number)
    return dice.choice(SAID).format(part=dice.choice(PARTS), order=400_000 + 7 * number)


def tickets(minute):
    """The tickets that are open then, by id, in the order in which they were opened."""
    dice = random.Random(2026)
    last = FIRST
    rows = {number: opened(number) for number in range(1, last + 1)}
    for _ in range(minute):
        for number in dice.sample(sorted(rows), CLOSED):
            del rows[number]
        for number in dice.sample(sorted(rows), CHANGED):
            rows[number] += " Any news?"
        rows |= {number: opened(number) for number in range(last + 1, last + NEW + 1)}
        last += NEW
    return {f"ticket-{number:04}": text for number, text in rows.items()}


if __name__ == "__main__":
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["id", "text"])
    table.writerows(tickets(int(sys.argv[1])).items())
