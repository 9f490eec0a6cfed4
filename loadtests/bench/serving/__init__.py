"""`make overhead`: what HTTP and Ray Serve cost, and what another replica brings.

apps           applications without a model: steps that sleep, replicas that answer at once
contenders     the same work: by the engine alone, by the service over HTTP, by FastAPI alone
fastapi_floor  FastAPI on uvicorn, in one process, with the service's own answer
cpu            CPU seconds by process, and what else the machine was doing
run            a whole run, contenders in turn, with its bars
report         the result as tables for people; `__main__` is the command
"""
