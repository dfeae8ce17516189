"""What the processes of the fault tests share, done once in the server that forks them."""

import gc

import boto3

import tests.faults.children
from fmnist.registry.records import ChampionRecord, from_json, to_json
from tests.support import records

# What botocore and pydantic read from disk at their first use would be most of what a process does.
tests.faults.children.remember_descriptions()
boto3.session.Session().client(
    "s3",
    endpoint_url="http://127.0.0.1:9",
    region_name="us-east-1",
    aws_access_key_id="nobody",
    aws_secret_access_key="nothing",
).get_paginator("list_objects_v2")
from_json(ChampionRecord, to_json(records.champion()), "nowhere")
# A collection would touch, and so copy, in every process all that they share.
gc.collect()
gc.freeze()
