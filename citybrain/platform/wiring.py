"""Connect everything, by hand, in this one file."""

from __future__ import annotations

from dataclasses import dataclass

from citybrain.core.home import Home
from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import Actor, IssuedKey, NewDepartment, NewKey
from citybrain.core.schemas.people import PLATFORM
from citybrain.core.settings import Settings
from citybrain.feature_store.store import FeatureStore
from citybrain.platform.evaluations import EvaluationDesk
from citybrain.registry.cards import Cards
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.endings import Undertaker
from citybrain.registry.intake import Intake
from citybrain.registry.lifecycle import Lifecycle
from citybrain.registry.lineage import LineageMap
from citybrain.registry.projection import Projection
from citybrain.serving.cluster import ServeCluster
from citybrain.serving.reconciler import Reconciler
from citybrain.storage.database import Database
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.history import History
from citybrain.storage.records.past import Past
from citybrain.storage.records.people import People
from citybrain.storage.records.usage import Usage

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
    history: History
    deployments: Deployments
    evaluations: Evaluations
    usage: Usage
    past: Past
    endings: Endings
    pepper: bytes


def open_truths(settings: Settings) -> Truths:
    """Open (and migrate) the database of a home; make the first admin key at the first start."""
    home = Home(settings.home.expanduser().resolve()).make()
    database = open_database(settings, home)
    database.migrate()
    truths = Truths(
        home=home, settings=settings, database=database, people=People(database),
        history=History(database), deployments=Deployments(database),
        evaluations=Evaluations(database), usage=Usage(database, settings.zone),
        past=Past(database), endings=Endings(database),
        pepper=home.secret(home.pepper),
    )  # fmt: skip
    _first_start(truths)
    return truths


def issue_key(truths: Truths, new: NewKey, actor: Actor) -> IssuedKey:
    """Make a key; the only moment when its secret exists outside its holder's hands."""
    environment = "prod" if truths.settings.profile == "production" else "emb"
    key_id, secret = new_key(environment)
    key = truths.people.add_key(new, key_id, key_digest(truths.pepper, secret), actor)
    return IssuedKey(**key.model_dump(), secret=secret)


def _first_start(truths: Truths) -> None:
    from citybrain.core.home import write_private

    if PLATFORM not in {department.name for department in truths.people.departments()}:
        new = NewDepartment(name=PLATFORM, title_zh="平台", title_en="Platform")
        truths.people.add_department(new, SYSTEM)
    if not truths.home.admin_key.exists():
        wanted = NewKey(department=PLATFORM, role="admin", note="first start")
        issued = issue_key(truths, wanted, SYSTEM)
        write_private(truths.home.admin_key, issued.secret.encode())


@dataclass
class ControlPlane:
    """Everything that the control process does."""

    truths: Truths
    catalogue: Catalogue
    intake: Intake
    projection: Projection
    lifecycle: Lifecycle
    undertaker: Undertaker
    lineage: LineageMap
    cards: Cards
    features: FeatureStore
    evaluation: EvaluationDesk
    reconciler: Reconciler


def build(settings: Settings) -> ControlPlane:
    """The control plane of a home. Imports MLflow, so it takes some seconds."""
    truths = open_truths(settings)
    approval = "four-eyes" if settings.profile == "production" else "self"
    catalogue = Catalogue(truths.home, truths.history, approval=approval)
    intake = Intake(catalogue, truths.home, settings.intake)
    projection = Projection(catalogue, truths.history, truths.home, intake)
    lifecycle = Lifecycle(catalogue, projection, truths.history, truths.evaluations, truths.endings)
    return ControlPlane(
        truths=truths,
        catalogue=catalogue,
        intake=intake,
        projection=projection,
        lifecycle=lifecycle,
        undertaker=Undertaker(catalogue, projection, truths.endings, truths.home, settings.zone),
        lineage=LineageMap(
            catalogue, truths.deployments, truths.people, truths.usage, settings.zone
        ),
        cards=Cards(catalogue, truths.evaluations, truths.endings),
        features=FeatureStore(truths.home.root),
        evaluation=EvaluationDesk(truths.evaluations, catalogue, truths.home),
        reconciler=Reconciler(
            truths.deployments, catalogue, ServeCluster(truths.home.run), truths.home.lanes
        ),
    )
