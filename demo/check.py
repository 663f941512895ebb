"""Holds results against their inputs and the batch API's ledger: every line ended once, every answer was paid once.

usage: check.py reviews REVIEWS.csv RESULTS.jsonl ERRORS.jsonl LEDGER.jsonl
       check.py tickets RUNS.json FOLDER LEDGER.jsonl
       check.py cost JOBS.json ACCOUNT.json LEDGER.jsonl

JOBS.json has BatchJobs and ACCOUNT.json their BatchProvider. RUNS.json has the BatchJobs of the schedule. FOLDER has what the bucket has: each run's tickets.csv and results.jsonl.
"""

import collections
import csv
import decimal
import hashlib
import json
import pathlib
import sys


def lines(file):
    with open(file, encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def table(file):
    with open(file, encoding="utf-8", newline="") as text:
        return {row["id"]: row for row in csv.DictReader(text)}


def answer(result):
    return result["response"]["body"]["choices"][0]["message"]["content"]


def short(text):
    text = text.replace("\n", " ")
    return text if len(text) < 90 else text[:87] + "..."


def check_reviews(reviews, results, errors, ledger):
    reviews, results, errors, ledger = table(reviews), lines(results), lines(errors), lines(ledger)
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


def request(spec, row):
    """The hash by which the ledger names the request of a row."""
    body = {**spec["requestDefaults"], "model": spec["model"], **spec["input"]["template"]["body"]}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.replace("$(row.text)", row["text"]).encode()).hexdigest()


def check_tickets(runs, folder, ledger):
    with open(runs, encoding="utf-8") as text:
        runs = json.load(text)["items"]
    ledger, known = lines(ledger), set()
    print("START   OPEN  UNCHANGED  PAID  BUG  QUESTION  PRAISE")
    for job in runs:
        start = job["status"]["results"]["uri"].split("/")[-3:-1]
        place = pathlib.Path(folder, *start)
        tickets, results = table(place / "tickets.csv"), lines(place / "results.jsonl")
        assert [line["custom_id"] for line in results] == list(tickets), "an answer for each ticket, in their order"
        requests = {request(job["spec"], row) for row in tickets.values()}
        unchanged = len(requests & known)
        assert job["status"]["requests"].get("reused", 0) == unchanged, "what was open before in the same words was reused"
        batches = {batch["providerID"] for batch in job["status"]["batches"]}
        paid = sum(line["batch_id"] in batches for line in ledger)
        words = collections.Counter(map(answer, results))
        print(f'{start[1][:2]}:{start[1][2:]}  {len(tickets):5}  {unchanged:9}  {paid:4}  {words["bug"]:3}  '
              f'{words["question"]:8}  {words["praise"]:6}')
        known |= requests
    billed = collections.Counter(line["request_sha256"] for line in ledger)
    assert {ticket: billed[ticket] for ticket in known} == dict.fromkeys(known, 1), "every ticket was billed exactly once"
    print(f"\n{len(known)} different tickets, each of them billed once")


def check_cost(jobs, account, ledger):
    with open(jobs, encoding="utf-8") as text:
        jobs = json.load(text)["items"]
    with open(account, encoding="utf-8") as text:
        model = json.load(text)["spec"]["models"][0]
    prices = {kind: decimal.Decimal(model["prices"][f"{kind}USDPerMillion"]) for kind in ("input", "output")}
    fields = {"ESTIMATED": "estimatedUSD", "ACTUAL": "actualUSD", "REAL TIME": "realTimeUSD", "SAVED": "savedUSD"}
    fields = {name: field for name, field in fields.items() if any(field in job["status"]["cost"] for job in jobs)}
    ledger = lines(ledger)

    print("JOB          REQUESTS  INPUT TOKENS  OUTPUT TOKENS" + "".join(f"  {name:>10}" for name in fields))
    for job in jobs:
        cost = job["status"]["cost"]
        billed = [line for line in ledger if line["custom_id"].endswith("-" + job["status"]["work"]["id"][:8])]
        tokens = {kind: sum(line[f"{kind}_tokens"] for line in billed) for kind in prices}
        single = sum(prices[kind] * tokens[kind] for kind in prices) / 1_000_000
        batch = single * (100 - model["batchDiscountPercent"]) / 100
        amounts = [each.quantize(decimal.Decimal("0.000001"), decimal.ROUND_HALF_UP) for each in (batch, single)]
        assert [decimal.Decimal(cost[field]) for field in ("actualUSD", "realTimeUSD")] == amounts, "what the batch API billed"
        shown = "".join(f"  {cost.get(field, ''):>10}" for field in fields.values())
        print(f'{job["metadata"]["name"]:11}  {len(billed):8}  {tokens["input"]:12}  {tokens["output"]:13}{shown}')
    print(f'\nprices from {cost["pricesFrom"]}')


{"reviews": check_reviews, "tickets": check_tickets, "cost": check_cost}[sys.argv[1]](*sys.argv[2:])
