"""Writes 10,000 reviews of a shop as CSV (id, stars, text) to standard output: the same ones every time, no two alike."""

import csv
import random
import sys

COUNT = 10_000
PRODUCTS = ["running shoes", "rain jacket", "desk lamp", "coffee grinder", "headphones", "backpack", "kettle", "bicycle pump",
            "cutting board", "wool blanket", "two-person tent", "phone case", "garden hose", "alarm clock", "water bottle"]
WHO = ["for my daughter", "for the office", "as a gift", "for a trip to Norway", "because the old one gave up", "on a whim",
       "for our first flat", "after reading the other reviews", "for my father, who is hard to please", "second-hand"]
# Openings and endings by stars: what is said goes with what is given.
SAID = {
    5: (["Could not be happier", "Exactly what I had hoped for", "Best thing I bought this year", "Excelente 👍"],
        ["Would buy it again.", "Five stars, easily.", "Delivery took one day!", "Merci beaucoup."]),
    4: (["Really good", "Solid and well made", "Does its job very well", "Sehr zufrieden"],
        ["Would recommend it.", "The manual is a riddle.", "One star less for the packaging.", "No regrets."]),
    3: (["It is all right, but nothing special", "Fine, but smaller than in the picture", "Neither good nor bad"],
        ["You get what you pay for.", "I might return it.", "Not sure yet.", "The colour is \"interesting\"."]),
    2: (["Disappointing", "Feels cheap", "I expected more", "Came two weeks late"],
        ["Support never answered.", "It rattles.", "The old one was better.", "Schade."]),
    1: (["Broke after a week", "Arrived in pieces", "Do not buy this", "Completely useless"],
        ["I want my money back.", "Never again!", "The box was empty, \"gift-wrapped\" and empty.", "0/10."]),
}
STARS = [5] * 9 + [4] * 6 + [3] * 3 + [2] * 2 + [1] * 3


def review(dice, number):
    """One row. Some people write on several lines, and some leave what a careful provider will not read."""
    stars = dice.choice(STARS)
    opening, ending = (dice.choice(said) for said in SAID[stars])
    bought = f"Bought the {dice.choice(PRODUCTS)} {dice.choice(WHO)}, order {100_000 + 7 * number}."
    parts = [f"{opening}.", bought, ending]
    if dice.random() < 0.003:
        parts.append(f"Call me on my private number, +44 20 7946 0{dice.randrange(1000):03}.")
    return [f"review-{number:05}", stars, ("\n" if dice.random() < 0.05 else " ").join(parts)]


table = csv.writer(sys.stdout, lineterminator="\n")
table.writerow(["id", "stars", "text"])
dice = random.Random(2026)
for row in range(1, COUNT + 1):
    table.writerow(review(dice, row))
