"""What people see of retraining: the real server's own pages, in a real browser."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from prefect.client.schemas.objects import FlowRun

from fmnist.settings import sections
from tests.e2e.conftest import DEPLOYMENTS, Operator, run_id_of
from tests.support.processes import ROOT, unavailable
from tests.support.records import COMPARISON_FILES, FILES

pytestmark = pytest.mark.timeout(600)

CHROMIUM = [
    *("--no-sandbox", "--disable-gpu", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
Visit = Callable[[str], Page]
Picture = Callable[..., None]
Judged = tuple[str, FlowRun]

WINDOW = {"width": 1400, "height": 1000}
# On a busy machine a page takes its time.
PATIENCE = 30_000

STAGES = ["fetch", "preprocess", "train", "evaluate", "publish"]
PAGES = ["/dashboard", "/runs", "/deployments", "/artifacts", "/automations"]

# What a reviewer asks of a rejected run, and the words of its report that are the answer. RUN and
# CHAMPION stand for the two runs' names.
QUESTIONS = {
    "was it promoted?": [r"^Rejected: RUN$"],
    "why not?": [r"^Test accuracy 0\.\d{4} is below the required 0\.9900[.;]", r"^FAIL$"],
    "how sure is its accuracy?": [r"^0\.\d{4}, 95% interval 0\.\d{4} to 0\.\d{4}$"],
    "how does it compare with the champion?": [
        r"(better than|worse than|level with) the champion's 0\.\d{4} on the same images$",
        r"^CHAMPION \(0\.\d{4}\)$",
        r"^Champion and challenger$",
        r"^p (= 0\.\d{4}|< 0\.0001), two-sided$",
    ],
    "which model is in use now?": [r"^champion after\s*CHAMPION$"],
    "which classes are weak?": [
        r"^([\w/ -]+ \(F1 0\.\d{4}\)(, )?){3}$",
        r"^Most confused$",
        r"^taken for$",
    ],
    "how did the training go?": [r"^Learning curves$", r"^4 of 4 epochs \(ran to the end\)"],
    "which data?": [
        r", the official files, SHA-256 in data\.json$",
        r"^48,000 training, 12,000 validation, 10,000 test$",
    ],
    "which code?": [r"^[0-9a-f]{40}(\+changes)?$", r"^Python 3\.\d+\.\d+, TensorFlow 2\.\d+"],
    "which settings?": [
        r"^\d changed, the others at their defaults; in settings\.json$",
        r"^training\.epochs$",
        r"^gate\.min_accuracy$",
        r"^0\.99$",
    ],
    "where are its files?": [
        rf"^s3://models/fashion-mnist/runs/RUN/{re.escape(name)}$"
        for name in sorted(FILES | COMPARISON_FILES)
    ],
    "how often did this test set judge?": [r"^This test set has judged \d+ models in this store: "],
    "how is the model loaded?": [
        r's3://models/fashion-mnist/runs/RUN/model\.keras\s+# SHA-256 [0-9a-f]{64}[^"]* '
        r'keras\.models\.load_model\("model\.keras", safe_mode=True\)'
    ],
    "how to go back?": [r"^Go back$", r"^Nothing to undo: this run did not change the champion\.$"],
}


@pytest.fixture(scope="module")
def browser(promoted: FlowRun, rejected: FlowRun) -> Iterator[Browser]:
    """A headless Chromium, once there is something to see."""
    program = shutil.which("chromium")
    if not program:
        unavailable("chromium is needed (Debian, Ubuntu: apt install chromium)")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(operator: Operator) -> str:
    """The address of the UI."""
    return operator.variables["PREFECT_API_URL"].removesuffix("/api")


@pytest.fixture
def stranger(browser: Browser, server: str) -> Iterator[Page]:
    """A page of somebody who has not logged in."""
    context = browser.new_context(base_url=server, viewport=WINDOW)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def visit(browser: Browser, server: str, operator: Operator) -> Iterator[Visit]:
    """Opens a page of the UI, in a tab of somebody who has logged in."""
    context = browser.new_context(base_url=server, viewport=WINDOW, timezone_id="UTC")
    page = context.new_page()
    log_in(page, operator.variables["PREFECT_API_AUTH_STRING"])
    page.wait_for_url("**/dashboard")

    def open_page(path: str) -> Page:
        page.set_viewport_size(WINDOW)
        page.goto(path)
        return page

    yield open_page
    context.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Picture:
    """Keeps a picture of a page, in the folder that SCREENSHOTS names if it does."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, whole: bool = False) -> None:
        if whole:
            # What scrolls is not the page, but a part of it.
            heights = "[...document.querySelectorAll('*')].map(part => part.scrollHeight)"
            height = page.evaluate(f"Math.max(...{heights})")
            page.set_viewport_size({"width": WINDOW["width"], "height": height})
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return take


@pytest.fixture(params=["promoted", "rejected"])
def judged(request: pytest.FixtureRequest) -> Judged:
    """Each verdict, and the run that it was given to."""
    return request.param, request.getfixturevalue(request.param)


def log_in(page: Page, password: str) -> None:
    """Give a password on the login page."""
    page.goto("/login")
    page.locator("input").first.fill(password)
    page.keyboard.press("Enter")


def open_tab(page: Page, name: str) -> None:
    """Open a tab of the page, once the page has loaded: until then it returns to its first tab."""
    page.wait_for_load_state("networkidle")
    page.locator(".p-tab").get_by_text(name, exact=True).click()


def open_artifact(page: Page, key: str) -> Locator:
    """Go from a run's page to one of its artifacts, and return what it shows."""
    open_tab(page, "Artifacts")
    page.locator(".artifact-card__title").get_by_text(key, exact=True).click()
    page.wait_for_url("**/artifacts/artifact/**")
    shown = page.locator(".artifact-data-view")
    expect(shown).to_be_visible()
    return shown


def setting(page: Page, description: str) -> Locator:
    """The part of the custom run form that has this description."""
    described = page.get_by_text(description).first
    return page.locator(".schema-form-property").filter(has=described).last


@pytest.mark.parametrize("password", ["", "admin:", "admin:wrong"])
def test_nobody_sees_anything_without_the_password(
    stranger: Page, promoted: FlowRun, password: str
) -> None:
    """Without it, or with a wrong one, every page refuses or asks for it, and shows nothing."""
    if password:
        log_in(stranger, password)
        expect(stranger.get_by_text("Authentication failed.").first).to_be_visible()
    for path in [*PAGES, f"/runs/flow-run/{promoted.id}"]:
        stranger.goto(path)
        refused = stranger.get_by_text("Authentication failed.")
        expect(refused.or_(stranger.get_by_role("button", name="Login")).first).to_be_visible()
        seen = stranger.inner_text("body")
        for hidden in ("fashion-mnist", "process", "report", "Promoted", run_id_of(promoted)):
            assert hidden not in seen, path
    answer = stranger.request.get(f"/api/flow_runs/{promoted.id}")
    assert answer.status == 401


def test_the_address_of_the_server_opens_the_ui_that_links_lead_to(
    operator: Operator, visit: Visit, promoted: FlowRun, picture: Picture
) -> None:
    """Prefect has two; the page of an alert is one of the UI that a browser opens first."""
    page = visit("/")
    page.wait_for_url("**/dashboard")
    home = page.url.partition("/dashboard")[0]
    picture(page, "home")
    run_id = run_id_of(promoted)
    (alert,) = [alert for alert in operator.webhook.alerts if alert.get("run") == run_id]
    assert alert["page"].startswith(f"{home}/runs/flow-run/")
    assert not alert["page"].startswith(f"{home}/v2/")
    page.goto(alert["page"])
    expect(page.locator(".page-heading-flow-run")).to_contain_text(promoted.name)


def test_the_deployments_are_listed_with_their_schedule(visit: Visit, picture: Picture) -> None:
    """That of the stack has a row that says in words when it runs; no other is in the way."""
    page = visit("/deployments")
    assert not page.get_by_role("link", name="kubernetes", exact=True).count()
    for name, deployment in [("process", DEPLOYMENTS["process"])]:
        link = page.get_by_role("link", name=name, exact=True)
        row = page.get_by_role("row").filter(has=link)
        if deployment["schedules"]:
            expect(row).to_contain_text(re.compile(r"\b(At|Every)\b", re.IGNORECASE))
        expect(row.get_by_role("link", name="fashion-mnist")).to_be_visible()
    process = page.get_by_role("row").filter(has_text="process")
    expect(process.get_by_text("Ready", exact=True)).to_be_visible()
    picture(page, "deployments")


def test_a_deployments_page_shows_which_schedules_are_on(
    operator: Operator, visit: Visit, picture: Picture
) -> None:
    """And the commit that was deployed, and what the deployment is for."""
    deployed = operator.deployment()
    page, version = visit(f"/deployments/deployment/{deployed.id}"), deployed.version
    for schedule in DEPLOYMENTS["process"]["schedules"]:
        card = page.locator(".deployment-schedule-card").filter(has_text=schedule["slug"])
        switch = card.get_by_role("switch")
        expect(switch).to_be_checked(checked=schedule.get("active", True))
    commit = version.removesuffix("-dirty")
    git = ["git", "-C", str(ROOT), "cat-file", "-t", commit]
    assert subprocess.check_output(git, text=True).strip() == "commit"
    expect(page.get_by_text(version, exact=True)).to_be_visible()
    picture(page, "deployment")
    open_tab(page, "Description")
    words = DEPLOYMENTS["process"]["description"].split(".")[0]
    expect(page.get_by_text(words).first).to_be_visible()


@pytest.fixture(scope="module")
def runs(promoted: FlowRun, rejected: FlowRun, unchanged: FlowRun) -> dict[str, FlowRun]:
    """A run for each verdict."""
    return {"promoted": promoted, "rejected": rejected, "unchanged": unchanged}


def test_the_list_of_runs_shows_each_verdict(
    visit: Visit, runs: dict[str, FlowRun], picture: Picture
) -> None:
    """Who looks for last night's run finds it by its verdict, and that of the one before."""
    page = visit("/runs")
    for word, run in runs.items():
        entry = page.locator(".state-list-item").filter(has_text=run_id_of(run))
        expect(entry).to_contain_text(f"{run_id_of(run)} {word}")
        expect(entry.locator(".state-badge")).to_have_text("Completed")
    picture(page, "runs")


@pytest.mark.parametrize("word", ["promoted", "rejected", "unchanged"])
def test_runs_are_found_by_state_and_verdict(
    word: str, visit: Visit, runs: dict[str, FlowRun], picture: Picture
) -> None:
    """The filters for a state and a tag, together, leave the runs with that verdict."""
    page = visit(f"/runs?state=Completed&tag={word}")
    listed = page.locator(".state-list-item")
    expect(listed.filter(has_text=run_id_of(runs[word]))).to_be_visible()
    expect(listed.filter(has_not_text=re.compile(rf"-\w{{8}} {word}"))).to_have_count(0)
    picture(page, f"runs-{word}")


def test_a_deployments_page_lists_its_runs_with_their_verdicts(
    operator: Operator, visit: Visit, runs: dict[str, FlowRun], picture: Picture
) -> None:
    """All of them, since none ends in a state of its own, which this list would hide."""
    page = visit(f"/deployments/deployment/{operator.deployment().id}")
    for word, run in runs.items():
        expect(page.get_by_text(re.compile(f"^{run_id_of(run)} {word}"))).to_be_visible()
    picture(page, "deployment-runs")


def test_the_page_of_an_unchanged_run_leads_to_the_earlier_one(
    promoted: FlowRun, unchanged: FlowRun, visit: Visit, picture: Picture
) -> None:
    """It says which run it would repeat, what the verdict on that was, and where its report is."""
    page = visit(f"/runs/flow-run/{unchanged.id}")
    heading = page.locator(".page-heading-flow-run")
    expect(heading).to_contain_text(f"{run_id_of(unchanged)} unchanged")
    expect(page.locator(".logs").get_by_text(unchanged.state.message, exact=True)).to_be_visible()
    picture(page, "unchanged")
    report, earlier = open_artifact(page, "report"), run_id_of(promoted)
    expect(report.get_by_role("heading", name=f"Unchanged: {run_id_of(unchanged)}")).to_be_visible()
    expect(report).to_contain_text(f"made {earlier} (test accuracy 0.")
    expect(report).to_contain_text("Its verdict: promoted.")
    expect(report).to_contain_text(f"s3://models/fashion-mnist/runs/{earlier}/report.md")
    picture(page, "unchanged-report")


def test_a_runs_page_shows_its_verdict_and_the_reason(
    judged: Judged, visit: Visit, picture: Picture
) -> None:
    """The verdict is in the name and a tag, the reason is in the log and the details, in words."""
    word, run = judged
    page = visit(f"/runs/flow-run/{run.id}")
    heading = page.locator(".page-heading-flow-run")
    expect(heading.locator(".state-badge")).to_have_text("Completed")
    expect(heading).to_contain_text(f"{run_id_of(run)} {word} 0.")
    for tag in (*DEPLOYMENTS["process"]["tags"], "official-data", word):
        expect(heading.get_by_text(tag, exact=True).first).to_be_visible()
    log = page.locator(".logs")
    expect(log.get_by_text(run.state.message, exact=True)).to_be_visible()
    expect(log.get_by_text("training: epoch 4/4")).to_be_visible()
    picture(page, word)
    open_tab(page, "Details")
    details = page.locator(".flow-run-details")
    expect(details).to_contain_text(run.state.message[:40])
    # Only a long message is cut.
    for button in details.get_by_text("See More").all():
        button.click()
    expect(details).to_contain_text(run.state.message)
    picture(page, f"{word}-details")


def test_a_runs_page_shows_every_stage(visit: Visit, rejected: FlowRun) -> None:
    """Each of the five ended well, of a rejected run too."""
    page = visit(f"/runs/flow-run/{rejected.id}")
    open_tab(page, "Task Runs")
    for stage in STAGES:
        expect(page.get_by_text(re.compile(rf"^{stage}-\w{{3}}$"))).to_be_visible()
    expect(page.get_by_text("(5 Completed)")).to_be_visible()


def test_the_report_is_rendered_with_tables_and_figures(
    judged: Judged, visit: Visit, picture: Picture
) -> None:
    """A reader sees tables, not their source, and each picture; a challenger's has one more."""
    word, run = judged
    page = visit(f"/runs/flow-run/{run.id}")
    report = open_artifact(page, "report")
    expect(
        report.get_by_role("heading", name=f"{word.capitalize()}: {run_id_of(run)}")
    ).to_be_visible()
    reason = run.state.message.removeprefix(f"{word}: ")
    expect(report.get_by_text(f"{reason[0].upper()}{reason[1:]}.", exact=True)).to_be_visible()
    rules = report.get_by_role("table").first
    # The header, the two rules of every run, and whether it is worse than a champion.
    met_a_champion = word == "rejected"
    expect(rules.get_by_role("row")).to_have_count(3 + met_a_champion)
    expect(rules).to_contain_text("FAIL" if word == "rejected" else "pass")
    classes = report.get_by_role("table").filter(has_text="precision")
    expect(classes.get_by_role("row")).to_have_count(13)
    expect(classes.get_by_role("row").filter(has_text="Ankle boot")).to_have_text(
        re.compile(r"^\s*Ankle boot(\s*[01]\.\d{4}){3}\s*1,000\s*$")
    )
    assert "| ---" not in report.inner_text()
    pictures = report.locator("img")
    expect(pictures).to_have_count(4 + met_a_champion)
    for image in pictures.all():
        image.scroll_into_view_if_needed()
        expect(image).to_be_visible()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    picture(page, f"{word}-report", whole=True)


def test_nothing_in_the_report_is_cut_off(judged: Judged, visit: Visit) -> None:
    """Every table and every line of code fits, so that no figure loses its last digits."""
    page = visit(f"/runs/flow-run/{judged[1].id}")
    report = open_artifact(page, "report")
    expect(report.locator("pre").first).to_be_visible()
    cut = report.evaluate(
        "report => [...report.querySelectorAll('.p-table, pre')].filter("
        "part => part.scrollWidth > part.clientWidth + 1 ||"
        " part.getBoundingClientRect().right > report.getBoundingClientRect().right + 1"
        ").map(part => part.innerText)"
    )
    assert cut == []


def test_the_classification_report_is_a_table_of_its_own(
    visit: Visit, promoted: FlowRun, picture: Picture
) -> None:
    """It has a row for each class, and two for the averages."""
    page = visit(f"/runs/flow-run/{promoted.id}")
    table = open_artifact(page, "classification-report").get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(1 + 12)
    for name in ("T-shirt/top", "Ankle boot", "macro average", "weighted average"):
        expect(table.get_by_text(name, exact=True)).to_be_visible()
    picture(page, "classification-report")


def test_the_progress_ends_at_100_percent(
    visit: Visit, promoted: FlowRun, rejected: FlowRun
) -> None:
    """Of a promoted and of a rejected run."""
    for run in (promoted, rejected):
        page = visit(f"/runs/flow-run/{run.id}")
        expect(open_artifact(page, "training-progress")).to_contain_text("Progress: 100%")


@pytest.fixture(scope="module")
def report_of_rejected(browser: Browser, visit: Visit, rejected: FlowRun) -> str:
    """Where the rejected run's report is."""
    page = visit(f"/runs/flow-run/{rejected.id}")
    open_artifact(page, "report")
    return page.url


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_report_answers(
    question: str, report_of_rejected: str, visit: Visit, promoted: FlowRun, rejected: FlowRun
) -> None:
    """What a reviewer asks next is answered right there, without a terminal."""
    page = visit(report_of_rejected)
    report = page.locator(".artifact-data-view")
    for answer in QUESTIONS[question]:
        words = answer.replace("RUN", run_id_of(rejected))
        words = words.replace("CHAMPION", run_id_of(promoted))
        expect(report.get_by_text(re.compile(words)).first).to_be_visible()


def meaning(section: str, name: str) -> str:
    """A setting's description."""
    return str(sections()[section].model_fields[name].description)


def deployed(section: str, name: str) -> str:
    """The value that the deployment gives a setting, as the form shows it."""
    return str(DEPLOYMENTS["process"]["parameters"]["settings"].get(section, {}).get(name, ""))


@pytest.fixture
def form(operator: Operator, visit: Visit) -> Page:
    """The form of a custom run, reached as a person does."""
    page = visit(f"/deployments/deployment/{operator.deployment().id}")
    page.locator("header").get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run", exact=True).click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()
    epochs = setting(page, meaning("training", "epochs")).locator("input")
    expect(epochs).to_have_value(deployed("training", "epochs"))
    return page


def test_the_form_of_a_run_describes_every_setting(form: Page, picture: Picture) -> None:
    """Meaning, bounds and default stand beside each; the deployment's values are filled in."""
    for section in sections().values():
        for field in section.model_fields.values():
            expect(form.get_by_text(str(field.description)).first).to_be_visible()
    bar = setting(form, meaning("gate", "min_accuracy"))
    expect(bar).to_contain_text("number from 0 to 1; default: 0.9")
    expect(bar.locator("input")).to_have_value(deployed("gate", "min_accuracy"))
    url = setting(form, meaning("store", "url"))
    expect(url).to_contain_text("default: store")
    expect(url.locator("input, textarea")).to_have_value("")
    # What people usually change comes first.
    shown = form.inner_text("body")
    names = ("Training", "Epochs", "Seed", "Gate", "Min Accuracy", "Champion", "Data", "Store")
    places = [shown.index(f"\n{name} (Optional)\n") for name in names]
    assert places == sorted(places)
    assert "TrainingSettings" not in shown
    picture(form, "form", whole=True)


def test_the_form_sends_only_what_was_filled_in(operator: Operator, form: Page) -> None:
    """What nobody touched stays with the deployment, the worker's environment and the defaults."""
    expected = operator.deployment().parameters
    expected["settings"].setdefault("training", {}).update(epochs=7, deterministic=False)
    # The request is looked at, and goes nowhere.
    form.route("**/create_flow_run", lambda route: route.abort())
    setting(form, meaning("training", "epochs")).locator("input").fill("7")
    setting(form, meaning("training", "deterministic")).locator("button").last.focus()
    form.keyboard.press("Space")
    form.locator(".p-select-option").get_by_text("false", exact=True).click()
    with form.expect_request("**/create_flow_run") as sent:
        form.get_by_role("button", name="Submit").click()
    # The page must not try again when the way is free.
    form.goto("about:blank")
    form.unroute("**/create_flow_run")
    assert sent.value.post_data_json["parameters"] == expected


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("training.epochs", "0", "0 is less than the minimum of 1"),
        ("gate.min_accuracy", "90", "90 is greater than the maximum of 1"),
    ],
)
def test_a_value_out_of_range_is_refused_before_there_is_a_run(
    name: str, value: str, refusal: str, operator: Operator, form: Page, picture: Picture
) -> None:
    """The form names the setting and what is wrong, and no run is created."""
    before = operator.runs_by_hand()
    section, _, key = name.partition(".")
    described = setting(form, meaning(section, key))
    described.locator("input").fill(value)
    form.get_by_role("button", name="Submit").click()
    said = form.get_by_text(refusal).first
    expect(said).to_be_visible()
    expect(said).to_contain_text(f"settings.{name}")
    described.scroll_into_view_if_needed()
    picture(form, f"form-refuses-{key}")
    assert form.url.split("?")[0].endswith("/run")
    assert operator.runs_by_hand() == before


def test_every_automation_is_listed_and_switched_on(visit: Visit, picture: Picture) -> None:
    """Those of automations.yaml, and no other."""
    declared = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())
    page = visit("/automations")
    cards = page.locator(".automation-card")
    expect(cards).to_have_count(len(declared["automations"]))
    for automation in declared["automations"]:
        card = cards.filter(has=page.get_by_text(automation["name"], exact=True))
        expect(card.get_by_role("switch")).to_be_checked()
    picture(page, "automations", whole=True)
