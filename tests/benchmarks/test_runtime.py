"""What the runner adds to a request, measured on the simulator for a moment."""

import json


def test_both_sides_run_on_every_flavour(script):
    done = script("runtime.py", "--requests", 5, "--turns", 2, "--json")
    assert done.returncode in (0, 1), done.stderr  # how long so few requests take tells nothing
    document = json.loads(done.stdout)
    assert document["most_us"] == 50
    assert len(document["rows"]) == 12
    assert all(row["bare_us"] > 0 and row["infer_us"] > 0 for row in document["rows"])
