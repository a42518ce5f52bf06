"""One run: its experiment trained, evaluated, written."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from csnb.attacks import warn_short
from csnb.bounds import Bounds
from csnb.certified import CERTIFIED, certified_margins, identity
from csnb.data import Dataset, load_dataset
from csnb.errors import InputError
from csnb.evaluation import Outcome, evaluate, score
from csnb.experiment import Experiment
from csnb.images import Images, batches
from csnb.margins import ATTACK, choose_offset, worst_margins
from csnb.methods import Task
from csnb.models import Normalized, add_offset, build_model, check_answers, learned
from csnb.paths import RESULTS, resolve
from csnb.progress import bar, say
from csnb.runs import Stage, inspect, is_here, provenance, start_from
from csnb.runs.audits import add_audited, audited, carry
from csnb.runs.folder import read_result
from csnb.runs.kept import keep, margins_file
from csnb.training import fit

PAUSE = 1.0  # seconds between two looks at what another process does


class Run:
    """One run of an `Experiment`.

    `train`, `evaluate`, `write`, in this order; or `run` for all of it.

    Making it checks everything that can be checked before work begins - data, class, costs, model,
    weights - and touches no file. A finished run of the same content stays as it is until `write`
    replaces it. ``data``: images from Python, instead of those that the experiment names; the run
    is then known by their name and content.
    """

    def __init__(self, experiment: Experiment, data: Dataset | None = None) -> None:
        if data is not None:
            experiment = experiment.model_copy(update={"dataset": data.name})
        self.experiment = experiment
        _use_threads(experiment.threads)
        torch.backends.cuda.matmul.allow_tf32 = experiment.tf32
        torch.backends.cudnn.allow_tf32 = experiment.tf32
        self.device = _device(experiment.device)
        place = experiment.dataset, experiment.data_root, experiment.image_size
        self.data = data or load_dataset(*place)
        # files of one's own may change while this runs
        named = data is None
        self.specs = experiment.specs(named=named)
        used = ("attacks", "adversary", "monitor")
        warn_short([spec for name in used for spec in self.specs[name]], experiment.threat())
        self.identity = experiment.identity(self.data, self.specs, named=named)
        self.costs = np.array(self.identity.costs)
        self.protected = self.identity.protected
        self._begun = False
        self.model = self._fresh_model()
        self._check_model()
        self.held = np.zeros(len(self.data.y_train), dtype=bool)
        if experiment.offset:
            self.held = self.data.held_out(experiment.validation, experiment.seed)
            add_offset(copy.deepcopy(self.model), self._look(), self.protected, 1.0)
        if experiment.offset.startswith(CERTIFIED):
            Bounds(self.model)  # it has a rule for every layer
        self.offset: dict[str, float | str] | None = None
        self._margins: dict[tuple[tuple[int, ...], str], np.ndarray] = {}
        self.folder = resolve(experiment.runs, "runs") / self.identity.run_id
        self._trained = ""  # digest of the weights that training left
        self.seconds: dict[str, float] = {}
        self.history: pd.DataFrame | None = None
        self.outcome: Outcome | None = None
        self._stage: Stage | None = None
        self._written: Path | None = None

    def __repr__(self) -> str:
        e, data = self.experiment, self.data
        names = ", ".join(repr(data.classes[p]) for p in self.protected)
        return (
            f"{e.method} protecting {names} of {data.name}: "
            f"{len(data.x_train)} training and {len(data.x_test)} test images of "
            f"{'x'.join(map(str, data.image_shape))}, {len(data.classes)} classes; "
            f"{e.model}, {e.epochs} epochs of {e.optimizer}"
        )

    def train(self) -> pd.DataFrame:
        """Train, from the first weights each time.

        Returns the history, a row per epoch (see `fit`). Where a run of the same content, code and
        machine was broken off after its training, the first call takes that. Raises InputError if
        another process is at it.
        """
        start = time.perf_counter()
        stage, again, self._begun = self._begin(), self._begun, True
        if again:
            self.model, self.history, self.outcome = self._fresh_model(), None, None
            self.offset, self._margins = None, {}
        elif self._resume(stage):
            return self.history
        try:
            history = self._fit(stage)
            self.seconds["train"] = time.perf_counter() - start
            if self.experiment.offset:
                self.offset = self._shift()
                self.seconds["offset"] = time.perf_counter() - start - self.seconds["train"]
        except BaseException as error:
            self._end(remove=isinstance(error, InputError))
            raise
        self.history, self._trained = history, learned(self.model)
        facts = {"of": self._made(), "offset": self.offset, "seconds": self.seconds}
        stage.keep_training(facts, self.model, history)
        return self.history

    def evaluate(self) -> pd.DataFrame:
        """Attack the trained model; returns the scores, one tidy frame (see `score`)."""
        if self.history is None:
            raise InputError("run: not trained; allowed: train() before evaluate()")
        self._check_trained()
        last, specs = time.perf_counter(), self.specs["attacks"]
        with bar(1 + len(specs), "attacking") as shown:

            def report(name: str) -> None:
                nonlocal last
                now = time.perf_counter()
                self.seconds[name], last = now - last, now
                if self._stage is not None:
                    self._stage.progress(stage="evaluate", attack=name)
                shown.step(name)

            self.outcome = self._attack(specs, report)
        self.scores = score(
            self.outcome, classes=self.data.classes, protected=self.protected, costs=self.costs
        )
        return self.scores

    def margins(self, protected: Sequence[int] = (), attack: str = ATTACK) -> np.ndarray:
        """Worst margins (N,) of the test images (see `csnb.worst_margins`); `write` keeps them.

        ``protected``: indices; default: the run's. ``attack``: of `ATTACKS`, or "certified". Raises
        InputError.
        """
        if self.outcome is None:
            raise InputError("run: not evaluated; allowed: evaluate() before margins()")
        asked = tuple(protected) or self.protected, identity(attack)
        if asked not in self._margins:
            x, y = self.data.x_test.to(self.device), self.data.y_test.to(self.device)
            self._margins[asked] = self._bounded(x, y, asked[0], attack)
        return self._margins[asked]

    def write(self) -> Path:
        """Write the run's folder and put it in its place.

        Returns it. A finished run that lay there is replaced.
        """
        if self.outcome is None:
            raise InputError("run: not evaluated; allowed: train() and evaluate() before write()")
        self._check_trained()
        stage = self._stage or self._begin()
        outcome = self.outcome
        digests = stage.write(
            self.identity,
            model=self.model,
            history=self.history,
            predictions={"labels": outcome.labels, "attacked": outcome.attacked}
            | outcome.predictions,
            result={
                "scores": _records(self.scores),
                "image_shape": list(self.data.image_shape),
                **({"offset": self.offset} if self.offset else {}),
                "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
                "provenance": provenance(next(self.model.parameters()).device),
            },
        )
        weights = digests["model.safetensors"]
        for (protected, attack), margins in self._margins.items():
            keep(margins_file(stage.folder, weights, protected, attack), margins)
        carry(self.folder, stage.folder, weights)
        self._stage = None
        self._written = stage.publish()  # aside, where a sweep puts it in its place
        return self._written

    def audited(self) -> pd.DataFrame:
        """The scores, and beside them what an audit left, where the written folder holds one.

        Columns as `csnb.runs.audits.add_audited` adds them. Raises InputError.
        """
        if self._written is None:
            raise InputError("run: not written; allowed: write() before audited()")
        known = audited(self._written, read_result(self._written))
        rows = self.scores.assign(run=self.identity.run_id)
        return add_audited(rows, {self.identity.run_id: known}).drop(columns="run")

    def _fit(self, stage: Stage) -> pd.DataFrame:
        e = self.experiment
        with bar(e.epochs, "training") as shown:

            def report(row: dict[str, float | str]) -> None:
                status = {"epoch": row["epoch"], "epochs": e.epochs, "loss": row["loss"]}
                stage.progress(stage="train", **status)
                shown.step(f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}")

            return fit(
                self.model,
                *self._training(~self.held),
                method=self.specs["method"][0],
                costs=self.costs,
                protected=self.identity.protected,
                recipe=replace(e.recipe(), adversary=self.specs["adversary"][0]),
                threat=e.threat(),
                seed=e.seed,
                measure=self._monitor if e.monitor else dict,
                on_epoch=report,
            )

    def _made(self) -> dict[str, object]:
        """What decides the weights to the bit: content, versions, commit, machine."""
        made = provenance(next(self.model.parameters()).device)
        del made["finished"]
        return {"run": self.identity.run_id, "numerics": self.identity.numerics} | made

    def _resume(self, stage: Stage) -> bool:
        """Take the training of a run that was broken off after it, if it would be this one."""
        kept = stage.training()
        if kept is None or kept[0]["of"] != self._made():
            return False
        facts, weights, history = kept
        try:
            self.model.load_state_dict(weights)
        except RuntimeError:  # a file of one's own that imports another
            self.model = self._fresh_model()
            return False
        self.model.eval()
        self.history, self.offset = history, facts["offset"]
        self._trained = learned(self.model)
        self.seconds |= facts["seconds"]
        say("training: taken from the run that was broken off")
        return True

    def _attack(self, specs: list, report) -> Outcome:
        e = self.experiment
        y = self.data.y_test.to(self.device)
        own = torch.isin(y, torch.tensor(self.protected, device=y.device))
        return evaluate(
            self.model,
            self.data.x_test.to(self.device),
            y,
            attacks=specs,
            threat=e.threat(),
            robust=e.robust,
            attacked=own.nonzero().squeeze(1) if e.attack_images == "protected" else None,
            seed=e.seed,
            on_attack=report,
        )

    def _training(self, chosen: np.ndarray) -> tuple[torch.Tensor | Images, torch.Tensor]:
        """The chosen training images and their labels, on the run's device."""
        x, y = self.data.x_train, self.data.y_train
        if not chosen.all():
            x, y = x[chosen], y[chosen]
        return x.to(self.device), y.to(self.device)

    def _look(self) -> torch.Tensor:
        """A test image, on the run's device."""
        return next(batches(self.data.x_test, [torch.arange(1)])).to(self.device)

    def _shift(self) -> dict[str, float | str]:
        """Choose the offset on the images held out, fold it in; says which, and what it gave."""
        e, (x, y) = self.experiment, self._training(self.held)
        attack = CERTIFIED if e.offset.startswith(CERTIFIED) else ATTACK
        rule = e.offset.removeprefix(f"{CERTIFIED} ")
        margins = self._bounded(x, y, self.protected, attack)
        labels = y.cpu().numpy()
        budget = None if rule == "cost" else float(rule)
        value = choose_offset(margins, labels, self.protected, costs=self.costs, budget=budget)
        add_offset(self.model, self._look(), self.protected, value)
        own, called = np.isin(labels, self.protected), margins + value > 0
        return {
            "value": value,
            "attack": attack,
            "images": len(labels),
            "recall": float(called[own].mean()),
            "false_alarms": float(called[~own].mean()),
        }

    def _bounded(
        self, x: torch.Tensor, y: torch.Tensor, classes: Sequence[int], attack: str
    ) -> np.ndarray:
        """Margins (N,) of these images under an attack, or certified ones."""
        e = self.experiment
        if attack == CERTIFIED:
            return certified_margins(self.model, x, y, classes, e.threat())
        return worst_margins(self.model, x, y, classes, e.threat(), attack=attack, seed=e.seed)

    def _monitor(self) -> dict[str, float]:
        """Accuracy on the first test images, clean and under the attack that is to be watched."""
        e = self.experiment
        x, y = self.data.x_test[: e.monitor_images], self.data.y_test[: e.monitor_images]
        x, y = x.to(self.device), y.to(self.device)
        settings = {"threat": e.threat(), "robust": e.robust, "seed": e.seed}
        outcome = evaluate(self.model, x, y, attacks=self.specs["monitor"], **settings)
        clean, robust = (float((p == outcome.labels).mean()) for p in outcome.predictions.values())
        return {"test_accuracy": clean, "robust_accuracy": robust}

    def _fresh_model(self) -> Normalized:
        """The network as training finds it, on the run's device."""
        e = self.experiment
        model = build_model(self.specs["model"][0], self.data, seed=e.seed)
        if e.init_from:
            left = start_from(model, model.body, resolve(e.init_from, "init_from"))
            if left and not self._begun:
                say(f"init_from: {left}")
            if not all(weights.isfinite().all() for weights in model.parameters()):
                raise InputError(
                    f"init_from: {e.init_from} holds weights that are not finite; "
                    "allowed: a finished training's"
                )
        if self.device.type == "cuda":  # channels_last is for CPUs
            model.to(self.device, memory_format=torch.contiguous_format)
        return model

    def _check_model(self) -> None:
        """Raises InputError unless the network takes the images and tells all classes apart, and
        the method suits it.
        """
        y = self.data.y_test[:1].to(self.device)
        answered, classes = check_answers(self.model, self._look(), y), len(self.data.classes)
        if answered != classes:
            raise InputError(
                f"model: {self.experiment.model} gives {answered} logits; "
                f"allowed: {classes}, one for each class"
            )
        costs = torch.as_tensor(self.costs, dtype=torch.float32, device=self.device)
        threat = self.experiment.threat()
        self.specs["method"][0](Task(self.model, costs, self.protected, threat))

    def _check_trained(self) -> None:
        """Raises InputError for a network that training did not leave."""
        if learned(self.model) != self._trained:
            raise InputError(
                "model: not the network that train() left; allowed: that one "
                "(csnb.fit and csnb.evaluate take any)"
            )

    def _begin(self) -> Stage:
        self._end()
        self._stage = Stage(self.folder.parent, self.folder.name)
        return self._stage

    def _end(self, *, remove: bool = False) -> None:
        """Let the run go, if it is held."""
        if self._stage is not None:
            self._stage.release(remove=remove)
            self._stage = None


def run(experiment: Experiment, data: Dataset | None = None) -> Run:
    """Train, evaluate and write; returns the finished run. ``data``: as of `Run`."""
    result = Run(experiment, data)
    result.train()
    result.evaluate()
    result.write()
    return result


def find_or_run(experiment: Experiment) -> Path:
    """Folder of a run of this content that is done (see `inspect`); says where it comes from.

    It is looked for in the experiment's ``runs``, then among those committed with csnb; else it is
    executed now; where another process is at it, that is waited for.
    """
    identity = experiment.identity()
    own = resolve(experiment.runs, "runs")
    while True:
        for runs in (own, RESULTS):
            found = inspect(runs / identity.run_id, identity)
            if found.state == "done":
                commit = found.result["provenance"]["commit"] or "unknown"
                print(f"read {found.folder.name} (commit {commit})")
                return found.folder
        try:
            folder = run(experiment).folder
            print(f"ran {folder.name}")
            return folder
        except InputError:
            folder = own / identity.run_id  # this process would wait for itself
            if is_here(folder) or inspect(folder, identity).state != "running":
                raise
            time.sleep(PAUSE)  # another process is at it


def _records(scores: pd.DataFrame) -> list[dict[str, object]]:
    import json

    return json.loads(scores.to_json(orient="records", double_precision=10))


_usual: int | None = None  # threads of this process before a run asked for another number


def _use_threads(number: int) -> None:
    """As many threads as a run asks for; 0: as many as before any run did."""
    global _usual
    if number and _usual is None:
        _usual = torch.get_num_threads()
    if number or _usual is not None:
        torch.set_num_threads(number or _usual)
    if not number:
        _usual = None


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device: 'cuda' but torch sees no GPU; allowed here: auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
