"""Holds the results against the reviews and the batch API's ledger: every review ended once, every answer was paid once.

usage: check.py REVIEWS.csv RESULTS.jsonl ERRORS.jsonl LEDGER.jsonl
"""

import collections
import csv
import json
import sys


def lines(file):
    with open(file, encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def answer(result):
    return result["response"]["body"]["choices"][0]["message"]["content"]


def short(text):
    text = text.replace("\n", " ")
    return text if len(text) < 90 else text[:87] + "..."


with open(sys.argv[1], encoding="utf-8", newline="") as table:
    reviews = {row["id"]: row for row in csv.DictReader(table)}
results, errors, ledger = map(lines, sys.argv[2:])
place = {review: number for number, review in enumerate(reviews)}

for part in (results, errors):
    places = [place[line["custom_id"]] for line in part]
    assert places == sorted(places), "the order of the reviews"
ended = collections.Counter(line["custom_id"] for line in results + errors)
assert ended == collections.Counter(reviews.keys()), "every review ended exactly once"

# The batch API knows a request as r<number>-<job>; each number of this job that was billed is an answer, and was billed once.
jobs = collections.Counter(line["custom_id"].split("-")[1] for line in ledger)
job = jobs.most_common(1)[0][0]
billed = collections.Counter(int(line["custom_id"][1:].split("-")[0]) for line in ledger if line["custom_id"].endswith(job))
assert billed == collections.Counter(place[line["custom_id"]] for line in results), "every answer was billed exactly once"

for line in results[:5]:
    review = reviews[line["custom_id"]]
    print(f'{line["custom_id"]}  {answer(line):8}  {review["stars"]}  {short(review["text"])}')
print(f'\n{errors[0]["custom_id"]}  {errors[0]["response"]["status_code"]}       {reviews[errors[0]["custom_id"]]["stars"]}  '
      f'{errors[0]["response"]["body"]["error"]["message"]}\n')
for word, count in collections.Counter(map(answer, results)).most_common():
    print(f"{count:6}  {word}")
print(f"{len(errors):6}  refused by the model's provider")
print(f"{len(reviews):6}  reviews, each of them once; billed: {len(billed)}, each of them once")
