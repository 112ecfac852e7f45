"""Connect everything, by hand, in this one file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from citybrain import __version__
from citybrain.core.errors import Conflict
from citybrain.core.home import Home
from citybrain.core.levels import Level
from citybrain.core.schemas import Actor, NewDepartment, NewKey, Role
from citybrain.core.schemas.people import PLATFORM
from citybrain.core.settings import Settings
from citybrain.feature_store.store import FeatureStore
from citybrain.platform.audits import AuditDesk
from citybrain.platform.conversions import ConversionDesk
from citybrain.platform.denials import DenialDesk
from citybrain.platform.evaluations import EvaluationDesk
from citybrain.platform.exam_data import ExamData
from citybrain.platform.factors import hash_password, one_time_password
from citybrain.platform.issuing import issue_key
from citybrain.platform.jobs import JobDesk
from citybrain.platform.metrics import Metrics
from citybrain.platform.policy import allows
from citybrain.platform.predictions import PredictionDesk
from citybrain.platform.quotas import QuotaDesk
from citybrain.platform.reception import Reception
from citybrain.platform.retention import RetentionDesk
from citybrain.registry.cards import Cards
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.endings import Undertaker
from citybrain.registry.forms import Forms
from citybrain.registry.intake import Intake
from citybrain.registry.lifecycle import Lifecycle
from citybrain.registry.lineage import LineageMap
from citybrain.registry.projection import Projection
from citybrain.serving.allotments import Allotments
from citybrain.serving.cluster import ServeCluster
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.lengths import lengths_in
from citybrain.serving.jobs.turns import JobTurns
from citybrain.serving.metering.keeper import Keeper
from citybrain.serving.metering.kept_book import KeptBook
from citybrain.serving.reconciler import Reconciler
from citybrain.serving.rollout.canary import Rollouts
from citybrain.serving.rollout.judge import judge
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.bills import Bills
from citybrain.storage.records.controls import Controls
from citybrain.storage.records.conversions import Conversions
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.draws import Draws
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.grants import GrantRequests
from citybrain.storage.records.history import History
from citybrain.storage.records.idempotency import Idempotency
from citybrain.storage.records.jobs import Jobs
from citybrain.storage.records.notices import Notices
from citybrain.storage.records.operations import Operations
from citybrain.storage.records.owners import Owners
from citybrain.storage.records.past import Past
from citybrain.storage.records.people import People
from citybrain.storage.records.quotas import Quotas
from citybrain.storage.records.samplings import Samplings
from citybrain.storage.records.traffic import Traffics
from citybrain.storage.records.usage import Usage
from citybrain.storage.records.users import Users
from citybrain.storage.records.verdicts import Verdicts

SYSTEM = Actor(key="system", department=PLATFORM, role="admin")


def open_database(settings: Settings, home: Home) -> Database:
    """The platform database of this home, or the one that the settings name."""
    if settings.database_url:
        return Database(settings.database_url)
    return Database.at(home.database)


@dataclass
class Truths:
    """The records of the platform database."""

    home: Home
    settings: Settings
    database: Database
    people: People
    owners: Owners
    users: Users
    history: History
    deployments: Deployments
    evaluations: Evaluations
    conversions: Conversions
    traffics: Traffics
    samplings: Samplings
    jobs: Jobs
    usage: Usage
    metrics: Metrics
    past: Past
    endings: Endings
    verdicts: Verdicts
    pepper: bytes


def open_truths(settings: Settings) -> Truths:
    """Open (and migrate) the database of a home; make the first keys at the first start."""
    home = Home(settings.home.expanduser().resolve()).make()
    database = open_database(settings, home)
    _bring_up_to_date(database, home)
    metrics = Metrics()
    truths = Truths(
        home=home, settings=settings, database=database, people=People(database),
        owners=Owners(database), users=Users(database),
        history=History(database), deployments=Deployments(database),
        evaluations=Evaluations(database), conversions=Conversions(database),
        traffics=Traffics(database), samplings=Samplings(database),
        jobs=Jobs(database),
        usage=Usage(database, settings.zone, metrics.count, metrics.count_refused), metrics=metrics,
        past=Past(database), endings=Endings(database),
        verdicts=Verdicts(database),
        pepper=home.secret(home.pepper),
    )  # fmt: skip
    _first_start(truths)
    return truths


def _bring_up_to_date(database: Database, home: Home) -> None:
    """Migrate the tables; those of a home that has some are copied first, and a newer one is refused."""
    age = database.age()
    if age == "newer":
        raise Conflict(
            f"{home.root} was written by a newer citybrain than this one ({__version__}).",
            hint="Start it with that version, or restore a backup of this one.",
        )
    if age == "behind" and database.url.startswith("sqlite"):
        from citybrain.platform.backup import copy_database

        folder = home.root / "backups"
        folder.mkdir(mode=0o700, exist_ok=True)
        copy_database(home.database, folder / f"platform-{now():%Y%m%d-%H%M%S}.db")
    database.migrate()


def _first_start(truths: Truths) -> None:
    from citybrain.core.home import write_private

    if PLATFORM not in {department.name for department in truths.people.departments()}:
        new = NewDepartment(name=PLATFORM, title_zh="平台", title_en="Platform")
        truths.people.add_department(new, SYSTEM)
    truths.users.ready(lambda: hash_password(one_time_password()))
    first: tuple[tuple[Role, Path], ...] = (
        ("admin", truths.home.admin_key), ("auditor", truths.home.auditor_key),
    )  # fmt: skip
    for role, path in first:
        if not path.exists():
            wanted = NewKey(
                department=PLATFORM, role=role, note="first start", level=Level.PERSONAL
            )
            write_private(path, issue_key(truths, wanted, SYSTEM).secret.encode())


def checkpoint_folders(truths: Truths) -> list[Path]:
    """Where checkpoints of the audit trail are written: the home, and where the settings say."""
    said = truths.settings.audit_export
    return [truths.home.audit, *([Path(said)] if said else [])]


@dataclass
class ControlPlane:
    """Everything that the control process does."""

    truths: Truths
    catalogue: Catalogue
    forms: Forms
    intake: Intake
    projection: Projection
    lifecycle: Lifecycle
    undertaker: Undertaker
    lineage: LineageMap
    cards: Cards
    features: FeatureStore
    evaluation: EvaluationDesk
    exam_data: ExamData
    conversion: ConversionDesk
    rollouts: Rollouts
    jobs: JobDesk
    predictions: PredictionDesk
    reconciler: Reconciler
    quotas: QuotaDesk
    allotments: Allotments
    audits: AuditDesk
    denials: DenialDesk
    retention: RetentionDesk
    bills: Bills
    operations: Operations
    requests: GrantRequests
    controls: Controls
    notices: Notices
    repeats: Idempotency
    keeper: Keeper
    reception: Reception


def build(settings: Settings) -> ControlPlane:
    """The control plane of a home. Imports MLflow, so it takes some seconds."""
    truths = open_truths(settings)
    approval = "four-eyes" if settings.profile == "production" else "self"
    catalogue = Catalogue(truths.home, truths.history, truths.verdicts, approval=approval)
    forms = Forms(catalogue)
    intake = Intake(catalogue, truths.home, settings.intake)
    projection = Projection(catalogue, truths.history, truths.verdicts, truths.home, intake)
    quotas = Quotas(truths.database)
    allotments = Allotments(quotas, truths.history, truths.deployments, catalogue)
    lifecycle = Lifecycle(
        catalogue, projection, truths.history, truths.evaluations, truths.endings,
        allotments.check_move,
    )  # fmt: skip
    evaluation = EvaluationDesk(truths.evaluations, catalogue, truths.home)
    exam_data = ExamData(truths.evaluations, truths.home)
    features = FeatureStore(truths.home.root)
    directory = Directory(truths.database, truths.pepper, allows, refresh=settings.serving.refresh)
    home, serving = truths.home, settings.serving
    reconciler = Reconciler(
        truths.deployments, catalogue, forms,
        ServeCluster(home.run, home.lanes, shared_bytes=serving.shared_bytes), home.lanes,
        verify=serving.verify, environment=settings.remote.environment(),
    )  # fmt: skip
    book = KeptBook(truths.home.limits)
    book.enter(truths.home.writers)
    truths.metrics.watch(
        reconciler.deployments, reconciler.shared_bytes, partial(lengths_in, truths.home.lengths)
    )
    turns = JobTurns(
        truths.jobs, directory, features.history, truths.home, settings, book, reconciler.rouse
    )
    rollouts = Rollouts(
        truths.traffics, truths.deployments, catalogue, Draws(truths.database).arms, judge,
        patience=settings.serving.call_timeout,
    )  # fmt: skip
    bills = Bills(truths.database, settings.zone)
    audits = AuditDesk(
        truths.database, catalogue.signers, checkpoint_folders(truths), settings.zone
    )  # fmt: skip
    retention = RetentionDesk(truths.database, truths.home, settings, audits, bills)
    return ControlPlane(
        truths=truths,
        catalogue=catalogue,
        forms=forms,
        intake=intake,
        projection=projection,
        lifecycle=lifecycle,
        undertaker=Undertaker(
            catalogue, projection, truths.endings, truths.verdicts, truths.home, settings.zone
        ),
        lineage=LineageMap(
            catalogue, truths.deployments, truths.people, truths.usage, settings.zone
        ),
        cards=Cards(catalogue, truths.evaluations, truths.endings),
        features=features,
        evaluation=evaluation,
        exam_data=exam_data,
        conversion=ConversionDesk(
            truths.conversions, catalogue, intake, forms, evaluation, exam_data
        ),
        rollouts=rollouts,
        jobs=JobDesk(truths.jobs, directory, turns, truths.home, settings),
        predictions=PredictionDesk(
            truths.samplings, truths.home, settings, truths.pepper, retention.prediction_days
        ),
        reconciler=reconciler,
        bills=bills,
        operations=Operations(truths.database, settings.zone),
        requests=GrantRequests(truths.database),
        controls=Controls(truths.database),
        notices=Notices(truths.database),
        audits=audits,
        retention=retention,
        denials=DenialDesk(truths.home.denials, truths.database),
        repeats=Idempotency(truths.database),
        quotas=QuotaDesk(quotas, book),
        allotments=allotments,
        keeper=Keeper(
            book, truths.home.journal, truths.home.writers, truths.database, settings.zone
        ),
        reception=Reception(truths.users, truths.pepper),
    )
