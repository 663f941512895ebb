"""Writes a few hundred review requests in OpenAI's batch format to standard output."""

import itertools
import json

OPENINGS = ["I love it", "It broke after a week", "Delivery was quick", "It came two weeks late", "It fits perfectly",
            "I want a refund", "It does what it says"]
MIDDLES = ["and I would buy it again", "but the colour is not what the picture shows", "and the box was in good shape"]
PRODUCTS = ["running shoes", "a rain jacket", "a desk lamp", "a coffee grinder", "headphones", "a backpack", "a kettle",
            "a bicycle pump", "a cutting board", "a wool blanket", "a tent", "a phone case", "a garden hose", "a clock",
            "a water bottle"]

for number, (product, opening, middle) in enumerate(itertools.product(PRODUCTS, OPENINGS, MIDDLES), start=1):
    review = f"Bought {product}. {opening}, {middle}."
    print(json.dumps({
        "custom_id": f"review-{number:04}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [
            {"role": "system", "content": "Answer with one word: positive, negative, mixed or neutral."},
            {"role": "user", "content": f"Classify: {review}"},
        ]},
    }))
