"""The console command that compares two stored runs."""

from fmnist.cli import tables
from fmnist.cli.command import Context, Result, done
from fmnist.cli.options import RunId, takes_settings
from fmnist.data.duplicates import unseen
from fmnist.data.records import DataOrigin
from fmnist.evaluation.comparison import compare
from fmnist.evaluation.records import in_digits, in_points
from fmnist.promotion.judge import make_test_set
from fmnist.promotion.stored import fetch_test_data
from fmnist.registry import keys, runs


@takes_settings("store", "data")
def compare_runs(context: Context, first: RunId, second: RunId, /) -> Result:
    """Score two runs' models on the same test images.

    With --json, every image that only one of them gets right is listed.
    """
    store = context.store()
    first, second = (runs.find_run_id(store, run_id) for run_id in (first, second))
    stored = [runs.read_run(store, run_id) for run_id in (first, second)]
    models = [runs.read_file(store, run, keys.MODEL) for run in stored]
    origins = [runs.read_record(store, run, keys.DATA, DataOrigin) for run in stored]
    data, test = fetch_test_data(context.settings.data)
    names = context.settings.data.class_names
    test_set = make_test_set(test, names, data)
    before, after = (test_set.score(model) for model in models)
    same = [origin.test_set == data.test_set for origin in origins]
    trained_on = [runs.read_training_digests(store, run) for run in stored]
    new_to_both = unseen(test_set.image_digests, *trained_on)
    found = compare(
        first, before, after, test.labels, names, same_test_set=same[0], unseen=new_to_both
    )
    context.say(f"first   {first}", f"second  {second}", "")
    context.say(*tables.comparison_lines(found, "first", "second"))
    table = tables.make_table(context, "class", "first", "second", "points", right=(1, 2, 3))
    for each in found.classes:
        recalls = f"{each.champion:.4f}", f"{each.challenger:.4f}"
        table.add_row(each.name, *recalls, in_points(-each.drop))
    context.say("", "recall by class", table)
    for run, is_same in zip(stored, same, strict=True):
        if not is_same and found.left_out is None:
            context.say(
                f"{run.run_id} was judged on other test data, and may have been trained on these"
            )
    low, high = found.interval.low, found.interval.high
    return done(
        f"{in_points(found.difference)} points [{in_points(low)}, {in_points(high)}]",
        f"p {in_digits(found.p_value)}",
        f"{len(found.changed):,} of {found.images:,} images changed sides",
        first=first,
        second=second,
        judged_on_these_images=same,
        comparison=found,
    )
