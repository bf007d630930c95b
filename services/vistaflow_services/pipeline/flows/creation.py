"""A data kit as the request that makes it."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import exact
from vistaflow_services.pipeline.flows.designs import stages_of
from vistaflow_services.pipeline.flows.flow import Flow, FlowJob, Reference
from vistaflow_services.pipeline.flows.published import DATASET, TABLE, TEXT, type_number
from vistaflow_services.pipeline.translate import jobs_of


def creation_of(
    flow: Flow, root: Any, *, request_id: str = "", actor: str = ""
) -> registry_pb2.CreateKitRequest:
    """What makes the kit.

    Args:
        flow: The data kit, without mistakes.
        root: The content of its file, for the record.
        request_id: From the caller's request.
        actor: Who makes it.
    """
    creation = registry_pb2.CreateKitRequest(
        request_id=request_id,
        name=flow.name,
        project=flow.project or "default",
        labels=flow.labels,
        jobs=new_jobs(flow),
        numbers_checked=True,
        actor=actor,
    )
    notify = [{"webhook": entry.webhook, "events": list(entry.events)} for entry in flow.notify]
    creation.spec.update(exact({"jobs": root["jobs"], **({"notify": notify} if notify else {})}))
    return creation


def new_jobs(flow: Flow) -> list[registry_pb2.NewJob]:
    """The jobs in an order in which each comes after those that it depends on."""
    ordered = list[FlowJob]()
    left = dict(flow.jobs)
    while left:
        ready = [job for job in left.values() if not set(job.depends_on) & set(left)]
        for job in ready:
            ordered.append(left.pop(job.name))
    jobs = list[registry_pb2.NewJob]()
    for job in ordered:
        before = [name for other in job.depends_on for name in _ends(flow.jobs[other])]
        attempts = job.max_attempts or flow.max_attempts
        if job.spec is not None and job.plan is not None:
            stages = jobs_of(job.spec, job.plan, job.reuse, prefix=f"{job.name}.")
            stages[0].depends_on.extend(before)
            for stage in stages:
                stage.max_attempts = attempts or stage.max_attempts
            _fill_stages(job, job.spec, stages)
            jobs += stages
        else:
            jobs.append(
                registry_pb2.NewJob(
                    name=job.name,
                    job_type=type_number(job.kind),
                    depends_on=before,
                    spec=_template(job),
                    max_attempts=attempts,
                )
            )
    for place, new in enumerate(jobs, start=1):
        new.current_order = place
    return jobs


def _ends(job: FlowJob) -> list[str]:
    """The jobs of the kit that end when a job of the file does, and publish its values."""
    if job.spec is None or job.plan is None:
        return [job.name]
    return [new.name for new in jobs_of(job.spec, job.plan, prefix=f"{job.name}.")]


def _fill_stages(
    job: FlowJob, spec: pipeline_pb2.KitSpec, stages: list[registry_pb2.NewJob]
) -> None:
    """Has the stages of a design take the values of other jobs when they start."""
    by_name = {stage.name: stage for stage in stages}
    templates = dict[str, common_pb2.JobTemplate]()
    for reference in job.references:
        value = _value(reference)
        for name, field in stages_of(reference.field, spec):
            stage = by_name.get(f"{job.name}.{name}")
            if stage is None:
                continue  # the design stops before it
            template = templates.setdefault(stage.name, common_pb2.JobTemplate(request=stage.spec))
            template.values.add(field=field, job=value.job, key=value.key, type=value.type)
            if value.job not in stage.depends_on:
                stage.depends_on.append(value.job)
    for name, template in templates.items():
        by_name[name].spec.Pack(template)


def _template(job: FlowJob) -> any_pb2.Any:
    template = common_pb2.JobTemplate(values=map(_value, job.references))
    template.request.Pack(job.request)
    packed = any_pb2.Any()
    packed.Pack(template)
    return packed


def _value(reference: Reference) -> common_pb2.JobValue:
    published = reference.published
    return common_pb2.JobValue(
        field=reference.field,
        job=".".join(filter(None, (reference.job, published.stage))),
        key=published.key,
        type=TEXT if published.type in (TABLE, DATASET) else published.type,
    )
