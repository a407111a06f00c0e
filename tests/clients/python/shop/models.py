"""Customers, what they order, and what is in stock."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now


class Customer(models.Model):
    email = models.EmailField(unique=True)
    labels = ArrayField(models.TextField(), default=list)
    preferences = models.JSONField(default=dict)
    created = models.DateTimeField(db_default=Now())


class Product(models.Model):
    sku = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.TextField()
    price = models.DecimalField(max_digits=10, decimal_places=2)
    stock = models.IntegerField()
    picture = models.BinaryField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(stock__gte=0), name="stock_not_negative")]


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, related_name="orders")
    products = models.ManyToManyField(Product)
    placed = models.DateTimeField(auto_now_add=True)
