"""Django 5's ORM over psycopg 3, each role in a database of its own that the suite creates and migrates."""

import decimal
import threading

import django_databases  # Before anything else of Django's: it configures it.
import pytest
from django.apps.registry import Apps
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.db import DataError, IntegrityError, connections, models, transaction
from django.db.models import Count, F, Prefetch, Sum, Window
from django.db.models.functions import Lower, Rank
from django.db.utils import OperationalError
from shop.models import Customer, Order, Product


@pytest.fixture(scope="module", params=["primary", "secondary"])
def alias(request, endpoints):
    """The name of a migrated database."""
    options = "-c pangea.read_consistency=global"
    with django_databases.migrated(endpoints[request.param], request.param, options) as alias:
        yield alias


@pytest.fixture(autouse=True)
def empty_tables(alias):
    yield
    call_command("flush", database=alias, verbosity=0, interactive=False)


def product(alias, **fields):
    defaults = {"name": "lamp", "price": decimal.Decimal("9.99"), "stock": 10}
    return Product.objects.using(alias).create(**defaults | fields)


def test_migrations_are_recorded(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations WHERE app = 'shop'")
        assert cursor.fetchall() == [("shop", "0001_initial")]
    call_command("migrate", database=alias, verbosity=0)
    assert "shop_product" in connections[alias].introspection.table_names()


def test_create_read_update_delete(alias):
    ada = Customer.objects.using(alias).create(email="Ada@example.com", labels=["a", "b"], preferences={"dark": True})
    assert ada.created is not None
    found = Customer.objects.using(alias).get(preferences__dark=True)
    assert (found.pk, found.labels) == (ada.pk, ["a", "b"])
    assert Customer.objects.using(alias).filter(labels__contains=["b"]).annotate(low=Lower("email")).get().low == (
        "ada@example.com"
    )
    found.email = "grace@example.com"
    found.save()
    assert Customer.objects.using(alias).values_list("email", flat=True).get() == "grace@example.com"
    assert Customer.objects.using(alias).get_or_create(email="grace@example.com")[1] is False
    assert Customer.objects.using(alias).update_or_create(email="joan@example.com", defaults={"labels": ["c"]})[1] is True
    assert Customer.objects.using(alias).all().delete()[0] == 2


def test_relations(alias):
    customer = Customer.objects.using(alias).create(email="ada@example.com")
    goods = [product(alias, name=name, price=price) for name, price in (("lamp", 5), ("desk", 50), ("chair", 20))]
    for count in (1, 2, 3):
        order = Order.objects.using(alias).create(customer=customer)
        order.products.set(goods[:count])
    orders = Order.objects.using(alias).annotate(n=Count("products"), total=Sum("products__price")).order_by("id")
    assert [(order.n, order.total) for order in orders] == [(1, 5), (2, 55), (3, 75)]
    ordered = Prefetch("products", Product.objects.using(alias).order_by("price"))
    last = Order.objects.using(alias).select_related("customer").prefetch_related(ordered).last()
    assert last.customer.email == "ada@example.com"
    assert [item.name for item in last.products.all()] == ["lamp", "chair", "desk"]
    ranked = Product.objects.using(alias).annotate(rank=Window(Rank(), order_by=F("price").desc())).order_by("rank")
    assert [(item.name, item.rank) for item in ranked] == [("desk", 1), ("chair", 2), ("lamp", 3)]
    customer.delete(using=alias)
    assert Order.objects.using(alias).count() == 0


def test_atomic_and_savepoints(alias):
    with transaction.atomic(using=alias):
        assert Product.objects.using(alias).count() == 0
        product(alias, name="kept")
        with pytest.raises(IntegrityError), transaction.atomic(using=alias):
            product(alias, name="lost", stock=-1)
        assert Product.objects.using(alias).get().name == "kept"
        with transaction.atomic(using=alias):
            product(alias, name="also kept")
            transaction.set_rollback(True, using=alias)
    assert list(Product.objects.using(alias).values_list("name", flat=True)) == ["kept"]
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        product(alias)
        raise ZeroDivisionError
    assert Product.objects.using(alias).count() == 1


def test_on_commit_hooks_see_the_commit(alias):
    seen = []
    with transaction.atomic(using=alias):
        product(alias)
        transaction.on_commit(lambda: seen.append(Product.objects.using(alias).count()), using=alias)
        assert seen == []
    assert seen == [1]


def test_f_expressions_do_not_lose_updates(alias):
    item = product(alias, stock=0)
    failures = []

    def restock():
        try:
            for _ in range(10):
                Product.objects.using(alias).filter(pk=item.pk).update(stock=F("stock") + 1)
        except Exception as failure:  # noqa: BLE001 - reported by the main thread
            failures.append(failure)
        finally:
            connections[alias].close()

    threads = [threading.Thread(target=restock) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    item.refresh_from_db(using=alias)
    assert item.stock == 40


def test_select_for_update(alias):
    item = product(alias, stock=1)
    outcome = []

    def take_without_waiting():
        try:
            with transaction.atomic(using=alias):
                Product.objects.using(alias).select_for_update(nowait=True).get(pk=item.pk)
                outcome.append("taken")
        except OperationalError as error:
            outcome.append(error.__cause__.sqlstate)
        finally:
            connections[alias].close()

    with transaction.atomic(using=alias):
        locked = Product.objects.using(alias).select_for_update().get(pk=item.pk)
        other = threading.Thread(target=take_without_waiting)
        other.start()
        other.join()
        locked.stock -= 1
        locked.save()
    assert outcome == ["55P03"]
    item.refresh_from_db(using=alias)
    assert item.stock == 0


def test_bulk_operations(alias):
    items = [Product(name=f"item {n}", price=n, stock=n) for n in range(2000)]
    Product.objects.using(alias).bulk_create(items, batch_size=500)
    assert Product.objects.using(alias).aggregate(total=Sum("stock"))["total"] == sum(range(2000))
    for item in items[:300]:
        item.name = "renamed"
    assert Product.objects.using(alias).bulk_update(items[:300], ["name"], batch_size=100) == 300
    assert Product.objects.using(alias).filter(name="renamed").count() == 300
    customers = [Customer(email=f"{n}@example.com") for n in range(3)]
    Customer.objects.using(alias).bulk_create(customers)
    again = [Customer(email="1@example.com", labels=["new"]), Customer(email="9@example.com")]
    Customer.objects.using(alias).bulk_create(
        again, update_conflicts=True, unique_fields=["email"], update_fields=["labels"]
    )
    assert Customer.objects.using(alias).count() == 4
    assert Customer.objects.using(alias).get(email="1@example.com").labels == ["new"]


@pytest.mark.parametrize("in_transaction", [False, True])
def test_server_side_cursor(alias, in_transaction):
    Product.objects.using(alias).bulk_create(Product(name=f"{n:04}", price=n, stock=n) for n in range(1000))

    def names():
        rows = Product.objects.using(alias).order_by("name").values_list("name", flat=True)
        return [name for name in rows.iterator(chunk_size=100)]

    expected = [f"{n:04}" for n in range(1000)]
    if in_transaction:
        with transaction.atomic(using=alias):
            assert names() == expected
    else:
        assert names() == expected


def test_errors_become_djangos(alias):
    Customer.objects.using(alias).create(email="ada@example.com")
    with pytest.raises(IntegrityError) as error:
        Customer.objects.using(alias).create(email="ada@example.com")
    assert error.value.__cause__.sqlstate == "23505"
    with pytest.raises(DataError), connections[alias].cursor() as cursor:
        cursor.execute("SELECT %s::text::int", ["one"])
    assert Customer.objects.using(alias).count() == 1


def test_raw_sql_explain_and_large_values(alias):
    payload = bytes(range(256)) * 4096
    item = product(alias, picture=payload)
    assert bytes(Product.objects.using(alias).get(pk=item.pk).picture) == payload
    (raw,) = Product.objects.using(alias).raw("SELECT * FROM shop_product WHERE name = %s", ["lamp"])
    assert raw.pk == item.pk
    assert "shop_product" in Product.objects.using(alias).filter(stock=10).explain(analyze=True)


def test_schema_editor(alias):
    class Note(models.Model):
        text = models.TextField(default="")

        class Meta:
            app_label = "shop"
            apps = Apps()

    with connections[alias].schema_editor() as editor:
        editor.create_model(Note)
    Note.objects.using(alias).create(text="one")
    field = models.IntegerField(default=7)
    field.set_attributes_from_name("stars")
    with connections[alias].schema_editor() as editor:
        editor.add_field(Note, field)
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT text, stars FROM shop_note")
        assert cursor.fetchall() == [("one", 7)]
    with connections[alias].schema_editor() as editor:
        editor.delete_model(Note)


def test_contributed_applications(alias):
    user = User(username="ada", email="ada@example.com")
    user.set_password("secret")
    user.save(using=alias)
    assert User.objects.using(alias).get(username="ada").check_password("secret")
    model = SessionStore.get_model_class()
    model.objects.using(alias).create(session_key="k", session_data="d", expire_date="2099-01-01T00:00Z")
    assert model.objects.using(alias).get(pk="k").session_data == "d"


def test_read_your_own_writes(alias):
    missed = [
        n
        for n in range(200)
        if not Customer.objects.using(alias)
        .filter(pk=Customer.objects.using(alias).create(email=f"{n}@example.com").pk)
        .exists()
    ]
    assert missed == []
