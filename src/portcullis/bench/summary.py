"""What the records of an audit say together: over seeds, attack by attack and defense by defense.

`summarise(records, deployed=...)` gives plain JSON, which the terminal and the report both draw:

    rows       one for every (attack, defense, budget), in the order of the grid:
               {"attack", "defense", "budget", "role", "outcome", "reason", "seeds",
                "measures": name -> estimate over seeds, "curve": [{"queries", "measures"}],
                "queries": mean rows paid for, "alarms": [row of the first alarm or null, one for every seed],
                "stopped": [why, one for every seed], "classes": [estimate or null], "flags": [id, ...]}
    defenses   one for every defense, "none" first:
               {"defense", "worst": {"attack", "budget", "agreement": estimate} or null,
                "steals": true | false | null, "withheld": sentence or "",
                "utility": estimate or null, "lost": estimate or null, "false_alarm": estimate or null,
                "verdict": sentence}
               `worst` is the attacker with the highest agreement; `steals` says whether its interval lies above every
               control; `lost` is the accuracy (0 to 1) that honest clients lose behind it
    controls   name -> {"agreement": estimate, "queries", "meaning": sentence}
    headline   sentences for the top of the report
    deployed   the defense that `--fail-over` is measured under
    flags      [{"id", "where": "attack | defense", "detail", "raised_if", "why", "what_to_do"}, ...]
    seeds, budgets
"""
