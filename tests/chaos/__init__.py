"""`make chaos`: faults under load, each with a bound, and one table of what was found.

How to walk it:

    __main__   the command: starts the service, plays the scenarios, writes the table
    scenarios  their names, in order, with how long each may take
    stage      what a scenario acts on
    service    the miniature and a sleeping device behind one proxy, on a Ray of its own
    stuck      the sleeping device, which hangs where it is told to
    load       the open loop in the background; every reply held to the picture drawn alone
    machine    CPU that others take; memory and descriptors of the service's processes
    metrics    the service's own, scraped
    outcome    figures and bounds to "holds", "broken" or "not decided"

One module per kind of fault, each a function that disturbs and returns what it found:

    overload   three times the capacity, then half of it
    killed     a replica in a batch, a router, the proxy
    leaving    clients that close their connections on the way
    hung       a device call, or a whole process, that stands still
    slow       five hundred slow senders and readers
    soak       most of the capacity for a long time
    updates    configuration and weights while requests come; broken weights
    memory     a device without memory (in this process, no model)
    host       no file can grow, a full disk, no name is resolved, the clock jumps

A bound in seconds that is missed on a machine that others keep busy is not decided.
"""
