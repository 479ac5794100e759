"""Are the training settings better than those near them? Chosen on five sets, checked on others.

    python tests/benchmarks/settings.py --data FOLDER [FOLDER ...] --model sentence-transformers/all-MiniLM-L6-v2 \
        --cache FOLDER --out settings.jsonl [--seeds 0 1] [--size 200] [--ways NAME=VALUE ...]

Each way is the package's recipe with one of TrainingSettings changed, on the same texts and labels (few_labels.py:
chosen actively, 8 % of the small LLM's labels wrong, a tenth given by the large one). `original` is Augmentoolkit's
fine-tuning on as many random texts, of which the large LLM labels a tenth, too. Accuracy is against the human labels of
the test split, and beside each way's mean stands by how much it differs from the package's settings, fit by fit, with
the standard error. Finished rows are appended to --out, and not computed again.

On 10 fits (seeds 0 and 1 of the five) none of the eight differs by more than chance explains: -0.6 to +0.6 points, each
to within 0.2 to 0.5; on clinc_domains and sms_spam, 4 fits, by -0.35 to +0.25; on medical_abstracts and newsgroups4,
one fit each, by -0.35 to +0.8, and 100 steps by +1.4, which had lost 0.4 on the ten. The best of the eight on these,
three times the head's rate (+0.55), had +0.2 to within 0.2 on 12 fits of other seeds, and ten times that rate -0.2 to
within 0.3 over 11. So the settings stayed as they were.
"""

import itertools
import json

import pandas as pd
from few_labels import CHOSEN_ON, KEYS, choose, measure, read_rows
from selection import ORIGINAL, Case, add_row, arguments, made_with

from nbhelpers import classifier
from nbhelpers.run_folder import RunFolder
from nbhelpers.training import TrainingSettings

AS_IS = "as it is"
WAYS = [
    "learning_rate=5e-5",
    "learning_rate=2e-4",
    "head_learning_rate=3e-4",
    "head_learning_rate=3e-3",
    "contrast=0.25",
    "contrast=1.0",
    "min_steps=100",
    "min_steps=225",
    ORIGINAL,
]
NOISE, CASCADE, SELECTION = 0.08, 0.1, "auto"


def settings_of(way: str) -> TrainingSettings:
    """Example: "min_steps=100" -> the package's settings with so many steps."""
    name, _, value = way.partition("=")
    return TrainingSettings() if way in (AS_IS, ORIGINAL) else TrainingSettings(**{name: json.loads(value)})


def report(rows: pd.DataFrame) -> None:
    """Prints accuracy by way and set, and the differences on the sets chosen on and on the others."""
    table = rows.pivot_table(index="way", columns="data", values="accuracy", sort=False)
    print(f"accuracy, {int(rows['size'].iloc[0])} labels\n{table.round(3).to_string()}")
    fits = rows.pivot_table(index=["data", "seed"], columns="way", values="accuracy", sort=False)
    chosen_on = fits.index.get_level_values("data").isin(CHOSEN_ON)
    for what, some in (("chosen on", fits[chosen_on]), ("checked on", fits[~chosen_on])):
        if len(some):
            differences, sets = some.sub(some[AS_IS], axis=0), ", ".join(some.index.unique("data"))
            figures = {"mean": some.mean(), "difference": differences.mean(), "standard error": differences.sem()}
            print(f"\n{what}: {sets} ({len(some)} fits a way)\n{pd.DataFrame(figures).round(4).to_string()}")
    print(f"\nseeds\n{rows.groupby(['way', 'data'], sort=False)['seed'].unique().unstack().to_string()}")


def main() -> None:
    parser = arguments(__doc__, seeds=[0, 1])
    parser.add_argument("--size", type=int, default=200, help="texts to train on")
    parser.add_argument("--ways", nargs="*", default=WAYS, help="beside the package's settings")
    options = parser.parse_args()
    classifier.EXACT_TEXTS = 0  # bfloat16 where the decision is clear: the same classes, sooner
    keys, ways = [*KEYS, "way"], [AS_IS, *options.ways]
    finished = set(read_rows(options.out, keys)[keys].itertuples(index=False, name=None))
    for seed, folder in itertools.product(options.seeds, options.data):
        cache = RunFolder(options.cache / folder.name)
        case = Case(folder, seed, options.model, cache, None, noise=NOISE, cascade=CASCADE)
        for selection, alike in itertools.groupby(ways, key=lambda way: "random" if way == ORIGINAL else SELECTION):
            chosen = choose(case, options.size, selection, [])
            for way in alike:
                recipe = ORIGINAL if way == ORIGINAL else "ours"
                case_of = (folder.name, seed, recipe, options.size, selection, NOISE, CASCADE, 0.0)
                key = (*case_of, made_with(options.model), way)
                if key not in finished:
                    row = measure(case, chosen, recipe, settings_of(way))
                    add_row(options.out, {**dict(zip(keys, key, strict=True)), **row})
    rows = read_rows(options.out, keys)
    mine = rows["data"].isin([folder.name for folder in options.data]) & rows["seed"].isin(options.seeds)
    mine &= (rows["size"] == options.size) & rows["way"].isin(ways) & (rows["made_with"] == made_with(options.model))
    report(rows[mine])


if __name__ == "__main__":
    main()
