"""Train models with dynamic ids on ranks and alone, across saves; rank 0 prints the losses.

``dynamic_ids.py STEPS BACKEND FOLDER``
"""

import json
import sys
from dataclasses import replace

from dlrmjit_kernels.runtime import threads

from dlrmjit.architecture.dynamic_ids import DynamicIds
from dlrmjit.model.model import Model
from dlrmjit.parallel.comm import fail_together, world
from dlrmjit.parallel.dynamic import with_dynamic_rows
from dlrmjit.parallel.exchanges.choice import with_exchange
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.training.persistence import load, restore, restore_optimizer, save
from dlrmjit.training.step import TrainingStep
from tests.builders import dynamic_batch, family
from tests.parallel.programs.families import UPDATES

ROWS = (4000, 30, 4000, 5)
CASES = {
    "fm/adam": ("fm", "adam", DynamicIds((0, 2)), "alltoall"),
    "fm/sums": ("fm", "rwsadagrad", DynamicIds((0, 2), max_age=3), "substitute"),
    "dlrm/sgd": ("dlrm", "sgd", DynamicIds((2,), after=2), "alltoall"),
    "deepfm/age": ("deepfm", "rwsadagrad", DynamicIds((0, 2), after=2, max_age=2), "auto"),
}


def batches(model, first, count, most):
    return [dynamic_batch(model, seed, most) for seed in range(first, first + count)]


def sharded(model, comm, backend, exchange, precision):
    specs = model.table_specs
    sizes = [spec.rows for spec in specs], [spec.dim for spec in specs]
    plan = with_dynamic_rows(propose(*sizes, comm.size), model)
    plan = with_exchange(plan, model, exchange)
    return ShardedModel(model, comm, plan, backend=backend, precision=precision)


def train(step, made, rate):
    return [step(batch, rate) for batch in made]


def run(comm, name, steps, backend, folder):
    kind, label, dynamic, exchange = CASES[name]
    model = replace(family(kind, table_rows=ROWS), dynamic=dynamic)
    exchange = exchange if comm.size > 1 else "auto"
    update, rate = UPDATES[label]
    precision = "bf16" if name == "fm/adam" else "fp32"
    most = 1 if exchange == "substitute" else 3
    early, late = batches(model, 0, steps, most), batches(model, steps, steps, most)
    here = sharded(model, comm, backend, exchange, precision)
    step = ShardedStep(here, update)
    case = {"early": train(step, early, rate)}
    path = folder + "/" + name.replace("/", "-")
    save(here, path, optimizer=step.optimizer)
    case["late"] = train(step, late, rate)
    again = sharded(model, comm, backend, exchange, precision)
    resumed = ShardedStep(again, update)
    restore(again, path)
    restore_optimizer(resumed.optimizer, again, path)
    resumed.start_at(steps)
    case["resumed"] = train(resumed, late, rate)
    if comm.rank == 0:
        alone = Model(model, backend=backend, precision=precision)
        one = TrainingStep(alone, update)
        case["early alone"] = train(one, early, rate)
        save(alone, path + "-alone", optimizer=one.optimizer)
        case["late alone"] = train(one, late, rate)
        loaded = load(path, backend=backend)
        continued = TrainingStep(loaded, update)
        restore_optimizer(continued.optimizer, loaded, path)
        case["loaded alone"] = train(continued, late, rate)
    comm.barrier()
    other = sharded(model, comm, backend, exchange, precision)
    spread = ShardedStep(other, update)
    restore(other, path + "-alone")
    restore_optimizer(spread.optimizer, other, path + "-alone")
    case["spread"] = train(spread, late, rate)
    return case


def main(steps, backend, folder):
    threads.set_threads(1)
    comm = fail_together(world())
    found = {name: run(comm, name, steps, backend, folder) for name in CASES}
    if comm.rank == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
