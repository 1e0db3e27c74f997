// Made by types.mjs from the API's description. Do not edit: make sdk-types

export interface paths {
    "/api/task": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Submit a task
         * @description Accept a task. When this answers, the task is on disk.
         *
         *     The full form is a `payload` with options such as `type`, `priority`, `timeout` and `attempts`. An object with
         *     no option and no `payload` is taken whole as the payload of type `default`.
         */
        post: operations["submitTask"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/task/{task_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a task
         * @description Return a task with its payload and result. With `wait`, the answer waits for the end of the task.
         *
         *     With `bodies=false` it has their sizes instead, in `requestBytes` and `resultBytes`. Callers who may not read
         *     payloads of others get null for both, and `withheld`, the reason.
         */
        get: operations["getTask"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/task/{task_id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel a task
         * @description End a task that has not ended. A call to a server is closed at once.
         */
        post: operations["cancelTask"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/task/{task_id}/retry": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Retry a task
         * @description Queue a failed or cancelled task again, with all its attempts.
         */
        post: operations["retryTask"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/tasks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List tasks
         * @description List tasks that match every filter given, newest first.
         *
         *     `label.<name>=<value>` selects by a label that a task requires or prefers, `payload.<path>=<value>` by a field
         *     of its payload that its type declares as `indexed`. A bulk command with the same filter is for the same tasks. A
         *     page is full unless it is the last, or the filter fits few of very many tasks: then it may be short, even empty,
         *     and still have a `nextCursor`.
         */
        get: operations["listTasks"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/tasks/count": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Count tasks
         * @description Count the tasks that match every filter given, up to 10,000; the filters are those of `GET /api/tasks`.
         *
         *     With `by`, also for each status, type, pool, server, owner, kind of failure (`kind`), or cause of a hold
         *     (`hold`).
         */
        get: operations["countTasks"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/task/{task_id}/events": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a task's history
         * @description Return the events of a task as recorded, oldest first, or newest first with `before`.
         *
         *     A page with large events may be short: it ends after 8 MiB. With `bodies=false`, and for callers who may not
         *     read payloads of others, payloads, results, output, log lines, `data` and `custom_data` are left out, and
         *     `sizes` has their sizes. If `after` is not in this log, because an older one was restored, `reset` is true and
         *     the page is the first.
         */
        get: operations["listEvents"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/task/{task_id}/why": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Ask why a task waits, runs or ended
         * @description Return what keeps a task from starting, since when, and what releases it, in words and data.
         *
         *     For a running task: its server and progress. For an ended one: how it ended, by whom and why. Admins and
         *     auditors get a verdict on each server, others the number of servers for each verdict.
         */
        get: operations["getWhy"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/tasks/batch": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Submit many tasks at once
         * @description Accept 1 to 1,000 tasks, all or none. When this answers, they are on disk.
         *
         *     Each task is in one of the two forms of `POST /api/task`. Numbers in `dependsOn` are indexes in this batch. A
         *     body sent as `application/x-ndjson` has one task per line. If tasks are wrong, `errors` of the 400 has the
         *     index, the error and the path of each.
         */
        post: operations["submitBatch"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/batches": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List batches
         * @description List batches, newest first. A page may be short, even empty, and still have a `nextCursor`.
         *
         *     With `counts`, a page ends once its batches have 10,000 tasks together.
         */
        get: operations["listBatches"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/batches/{batch_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a batch
         * @description Return the counts of a batch's tasks by status, and the progress of the batch as a whole.
         */
        get: operations["getBatch"];
        put?: never;
        post?: never;
        /**
         * Delete a batch
         * @description Remove the tasks of a batch from every list, and cancel those that have not ended.
         */
        delete: operations["deleteBatch"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/batches/{batch_id}/tasks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List a batch's tasks and results
         * @description List the tasks of a batch in the order of its body. A page with large results may be short.
         */
        get: operations["listBatchTasks"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/batches/{batch_id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel a batch
         * @description Cancel the tasks of a batch that have not ended.
         */
        post: operations["cancelBatch"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/batches/{batch_id}/retry": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Retry a batch
         * @description Queue the failed and cancelled tasks of a batch again, each with all its attempts.
         */
        post: operations["retryBatch"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/tasks/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel many tasks
         * @description End the tasks that have not ended: up to 1,000 by ids, or those that match a filter.
         *
         *     With `dryRun`, nothing changes and the answer says what would. If the answer has a `nextCursor`, more tasks
         *     match: send it as `cursor`.
         */
        post: operations["cancelTasks"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/tasks/retry": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Retry many tasks
         * @description Queue failed and cancelled tasks again, each with all its attempts. The body is as for cancelling.
         */
        post: operations["retryTasks"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/tasks/delete": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Delete many tasks
         * @description Remove tasks from every list, and cancel those that have not ended. The body is as for cancelling.
         */
        post: operations["deleteTasks"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/files": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List files
         * @description List your files, newest first, without those that were deleted. Admins and auditors see everybody's.
         */
        get: operations["listFiles"];
        put?: never;
        /**
         * Upload a file
         * @description Store a file: the body as it is, or the part `file` of a `multipart/form-data` body.
         *
         *     The bytes are stored as they arrive, up to `TASKSTREAM_MAX_FILE`. A payload refers to the file as
         *     `{"$file": "<id>"}`; the server that runs the task gets a signed link in its place. A form may have the
         *     parameters of the query as fields, and `metadata.<name>` for texts of your own.
         */
        post: operations["uploadFile"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/files/{file_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        post?: never;
        /**
         * Delete a file
         * @description Delete a file and its bytes. A 409 names the tasks that refer to it and have not ended.
         */
        delete: operations["deleteFile"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/files/{file_id}/info": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Describe a file
         * @description Return what is known of a file: name, media type, size, SHA-256, and when it ends.
         */
        get: operations["getFileInfo"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/files/{file_id}/links": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Make a signed link
         * @description Make a URL under which anybody reads the file until it expires, without any header: for a player, a browser.
         *
         *     It stops working when the file is deleted. It cannot be revoked otherwise: keep it as short as you can.
         */
        post: operations["linkFile"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/projects/{name}/queue-chapters": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Queue chapters
         * @description Accept a task of type `chapter`. When this answers, the task is on disk.
         *
         *     Tasks of type `chapter` of one project run one after another. An attempt may take the timeout of the type once
         *     for each chapter. The headers `X-AI-Provider`, `X-AI-Model` and `X-AI-Key` are required, `X-AI-BaseUrl` is
         *     optional: they name the model. `X-AI-Key` is sealed, sent only to the server that runs the task, and destroyed
         *     when the task ends.
         */
        post: operations["queueChapters"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/projects/{name}/queue-outline": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Queue an outline
         * @description Accept a task of type `outline`. The headers are those of `queue-chapters`.
         */
        post: operations["queueOutline"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/queue/tasks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List queued tasks
         * @description List the caller's project tasks, oldest first: those that have not ended, and the last 200 ended ones.
         *
         *     Of more tasks that have not ended than `limit`, the newest are on the first page.
         */
        get: operations["listQueued"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/queue/tasks/{task_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a queued task
         * @description Return a project task as it is now.
         */
        get: operations["getQueued"];
        put?: never;
        post?: never;
        /**
         * Delete a queued task
         * @description Remove a task from every list, and cancel it if it has not ended. Auditors still see its history.
         */
        delete: operations["deleteQueued"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/queue/tasks/{task_id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel a queued task
         * @description Cancel a task that has not ended. It shows as `failed` with the error "Cancelled by user".
         */
        post: operations["cancelQueued"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/task/{task_id}/stream": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Stream a task's events
         * @description Send the present state of a task, then its events as they happen. Ends after the last event of the task.
         *
         *     Each `data` is JSON with a `type`: `state`, then the names of events. A client that reconnects with the last
         *     `id` resumes after it: then the first types are `reached`, and `gap` if events are past the retention, or
         *     `reset` if the id is not in this log. Ignore other types. A 204 means that nothing follows. When the token
         *     expires, the last type is `expired`.
         */
        get: operations["streamTask"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/stream-tokens": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Get a token for streams
         * @description Return a token for `?token=` of a stream, because EventSource and WebSocket of browsers send no headers.
         */
        post: operations["makeStreamToken"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/servers": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List servers
         * @description List the registered servers by id, with their state and last heartbeat, or the removed ones.
         *
         *     A `service` token gets those that it acts for, in short.
         */
        get: operations["listServers"];
        put?: never;
        /**
         * Register a server
         * @description Register a backend server, or replace the one with this id. It is `offline` until a check succeeds.
         *
         *     A replacement has the defaults of all settings that the body leaves out: `reset` lists them. To change one
         *     setting use PATCH. Fields of a server's present state, as GET returns them, are ignored.
         */
        post: operations["registerServer"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/servers/{server_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a server
         * @description Return a server and its `status`: `online` or `offline`, with the reason.
         *
         *     A `service` token gets a server that it acts for, in short.
         */
        get: operations["getServer"];
        put?: never;
        post?: never;
        /**
         * Remove a server
         * @description Remove a server and its sealed key. Tasks it runs go on; their reports are still accepted.
         *
         *     No heartbeat or health check restores it; `POST /api/servers/{id}/restore` does, with its key.
         */
        delete: operations["removeServer"];
        options?: never;
        head?: never;
        /**
         * Change a server
         * @description Change the settings in the body and leave the others, with the API key. The server is checked at once.
         */
        patch: operations["changeServer"];
        trace?: never;
    };
    "/api/servers/{server_id}/maintenance": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Begin or end maintenance
         * @description Begin or end maintenance. In maintenance a server finishes the tasks it runs and gets no new ones.
         */
        post: operations["setMaintenance"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/servers/{server_id}/drain": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Drain a server
         * @description Begin maintenance and return how many tasks still run. Repeat until `drained` is true; then resume it.
         */
        post: operations["drainServer"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/servers/{server_id}/resume": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * End a drain
         * @description End a drain or maintenance: the server gets tasks again.
         */
        post: operations["resumeServer"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/attempts/take": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Take tasks for a pulled server
         * @description Wait for tasks that a server may run, and take them. Each is the puller's until its lease ends.
         *
         *     Limits, labels, priorities and pauses are as for other servers. The request is a sign of life of the server: it
         *     is online while its pullers ask or renew. A `service` token may ask for the servers that it acts for.
         */
        post: operations["takeAttempts"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/attempts/{attempt_id}/renew": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Renew an attempt
         * @description Renew the lease of an attempt. Its bearer token is the `token` that came with the attempt.
         */
        post: operations["renewAttempt"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/attempts/{attempt_id}/progress": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Report progress of an attempt
         * @description Record progress, and renew the lease of the attempt.
         */
        post: operations["reportProgress"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/attempts/{attempt_id}/done": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * End a task with its result
         * @description Record the result of a task. The same result again changes nothing and is `recorded` as well.
         */
        post: operations["finishAttempt"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/attempts/{attempt_id}/fail": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Fail an attempt
         * @description Record that an attempt failed. With `retry` the task is tried again; without, it fails.
         */
        post: operations["reportFailure"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/attempts/{attempt_id}/release": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Give an attempt back
         * @description Give an attempt back: it does not count, and the task is in its queue again.
         */
        post: operations["releaseAttempt"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/types/{name}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a type
         * @description Return a type's settings; where it has none, those of the service.
         */
        get: operations["getType"];
        /**
         * Define a type
         * @description Define a type, or replace its settings. Tasks already submitted keep their settings.
         *
         *     What the body leaves out gets its default, but a `pool` left out stays as it is. `schemaFrom` asks a server for
         *     the schema of its model's input; it is refused, with the reason, if the server gives none that can be used.
         */
        put: operations["putType"];
        post?: never;
        /**
         * Delete a type
         * @description Delete a type's settings. Its tasks go on; new tasks of this type are treated like `default`.
         */
        delete: operations["deleteType"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/types": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List types
         * @description List the types by name; `default` always exists.
         */
        get: operations["listTypes"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhooks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List webhooks
         * @description List webhooks, newest first. With `counts=true` each has its `counts` and `lagSeconds`.
         */
        get: operations["listWebhooks"];
        put?: never;
        /**
         * Register a webhook
         * @description Send events of your tasks to a URL from now on, signed (Standard Webhooks).
         *
         *     A delivery that is not answered with a 2xx is retried for hours; a 410 disables the webhook, a 429 pauses it.
         */
        post: operations["registerWebhook"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhooks/{webhook_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a webhook
         * @description Return a webhook; `disabledReason` says why it is not active, `pausedUntil` how long nothing is sent.
         */
        get: operations["getWebhook"];
        put?: never;
        post?: never;
        /**
         * Delete a webhook
         * @description Delete a webhook, its secret, and its deliveries that are not sent yet.
         */
        delete: operations["deleteWebhook"];
        options?: never;
        head?: never;
        /**
         * Change a webhook
         * @description Change the fields in the body and leave the others. Deliveries not yet sent go to the new URL.
         *
         *     The URL of another user's webhook is changed by admins who may read the user's results: it receives them.
         */
        patch: operations["changeWebhook"];
        trace?: never;
    };
    "/api/webhooks/{webhook_id}/secret": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Rotate a webhook's secret
         * @description Make a new secret. For a day deliveries carry the signatures of both secrets.
         */
        post: operations["rotateSecret"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhooks/{webhook_id}/test": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Send a test
         * @description Send a message of type `webhook.test`, delivered like any other: during a pause, when it ends.
         */
        post: operations["sendTest"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhooks/{webhook_id}/deliveries": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List deliveries
         * @description List the deliveries of a webhook, sent and not yet sent. A page with a `nextCursor` may be short.
         */
        get: operations["listDeliveries"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhooks/{webhook_id}/deliveries/{delivery_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a delivery
         * @description Return a delivery and what came of each try.
         */
        get: operations["getDelivery"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/retry": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Send a delivery again
         * @description Send a delivery now, whatever its status, with the same `webhook-id` and a fresh budget of attempts.
         *
         *     During a pause of the webhook it is sent when the pause ends.
         */
        post: operations["retryDelivery"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/schedules": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List schedules
         * @description List schedules by id: newest first, except those made with an Idempotency-Key, whose ids are not by time.
         *
         *     A page of those that are failing may be short and still have a `nextCursor`.
         */
        get: operations["listSchedules"];
        put?: never;
        /**
         * Create a schedule
         * @description Submit a task again and again, at the times of a cron expression in a time zone.
         *
         *     The task is checked now and at each run. A run whose task is refused is recorded on the schedule as failed; the
         *     next runs go on.
         */
        post: operations["createSchedule"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/schedules/preview": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Preview a cron expression
         * @description Return an expression in words, its next five runs, and what happens to it where clocks change.
         */
        post: operations["previewSchedule"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/schedules/{schedule_id}/runs": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List the runs of a schedule
         * @description List the runs that are over for the schedule, with the status of their tasks.
         *
         *     Runs that fired together stay together, so a page may have up to 99 more than `limit`.
         */
        get: operations["listRuns"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/schedules/{schedule_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read a schedule
         * @description Return a schedule with its task, its next five runs, and the outcome of the last.
         */
        get: operations["getSchedule"];
        put?: never;
        post?: never;
        /**
         * Delete a schedule
         * @description Delete a schedule. The tasks it has submitted stay.
         */
        delete: operations["deleteSchedule"];
        options?: never;
        head?: never;
        /**
         * Change a schedule
         * @description Change the fields in the body and leave the rest. A new `cron` or `timeZone` applies from now on.
         */
        patch: operations["changeSchedule"];
        trace?: never;
    };
    "/api/schedules/{schedule_id}/pause": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Pause a schedule
         * @description Stop a schedule until it is resumed. Tasks it has submitted go on.
         */
        post: operations["pauseSchedule"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/schedules/{schedule_id}/resume": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Resume a schedule
         * @description Start a paused schedule again. `missed` of the schedule decides if missed runs are skipped or caught up.
         */
        post: operations["resumeSchedule"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/schedules/{schedule_id}/run": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Run a schedule now
         * @description Submit the task of a schedule now, even if the schedule is paused. Its other runs are not affected.
         */
        post: operations["runSchedule"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/me": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read who you are
         * @description Return the caller's name, roles and permissions, when the token ends, and the server's time and version.
         */
        get: operations["getMe"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/keys": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List API keys
         * @description List keys: those that work, those that have expired, and the last 200 of each user that were revoked.
         */
        get: operations["listKeys"];
        put?: never;
        /**
         * Make an API key
         * @description Make a key that is accepted wherever a JWT is, with some of your rights, until it expires or is revoked.
         *
         *     Its text is in this answer only. So the same `Idempotency-Key` again is a 409, which names the key that it made.
         */
        post: operations["createKey"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/keys/{key_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Read an API key
         * @description Return a key, with its rights and its last use.
         */
        get: operations["getKey"];
        put?: never;
        post?: never;
        /**
         * Revoke an API key
         * @description Revoke a key, and the keys that it made. When this answers, no API process accepts any of them.
         *
         *     Their streams end, and their waiting requests are answered 401. What was done with them stays.
         */
        delete: operations["revokeKey"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /**
         * AcceptanceBody
         * @description The answer by which the server takes a job that it does later.
         */
        AcceptanceBody: {
            /** @description By default status 202. A condition on the body alone holds for 2xx only. */
            when?: number[] | string | components["schemas"]["AnswerTestBody"];
            /**
             * @description Path to the server's id of the job; null: it knows the job by `$id`.
             * @example 01KDW1Z6P00000000000000000~alice
             */
            id?: string | null;
            /** @description Path to the URL to poll, or the name of a header with it, such as `Location`; null: `poll.url`. */
            statusUrl?: string | null;
            /** @description Path to the URL that cancels, or the name of a header with it; null: `cancel.url`. */
            cancelUrl?: string | null;
        };
        /**
         * AiConfig
         * @description The model that the submitter chose, never its key.
         */
        AiConfig: {
            /** @example example */
            provider: string;
            model: string;
            baseUrl?: string | null;
        };
        /**
         * AnswerTestBody
         * @description A test of an answer: each part that is given must hold. At least one is required.
         */
        AnswerTestBody: {
            /** @description The status is one of these. */
            status?: number[] | null;
            /**
             * @description A condition on the body, which is JSON or text: what JSONPath allows in a filter, about the whole body.
             * @example down for maintenance
             */
            body?: string | null;
            /** @description The first 64 KiB of the body contain this text, in any case. */
            contains?: string | null;
        };
        /**
         * AttemptAccepted
         * @description The server accepted the task (202) and will report the outcome by callback; or a puller took it.
         */
        AttemptAccepted: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "AttemptAccepted";
            attempt?: number;
            backend_task_id?: string | null;
            lease?: string | null;
        };
        /**
         * AttemptFailed
         * @description An attempt failed and another follows.
         */
        AttemptFailed: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "AttemptFailed";
            attempt?: number;
            server_id?: string;
            /** @enum {unknown} */
            kind?: "bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost";
            error?: string;
            retry_at?: string;
        };
        /**
         * AttemptReturned
         * @description An attempt came to nothing and does not count as a failure: the task is back in its queue at once.
         */
        AttemptReturned: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "AttemptReturned";
            attempt?: number;
            server_id?: string;
            reason?: string;
            /** @enum {unknown} */
            kind?: "busy" | "shutdown" | "unsent";
        };
        /**
         * AttemptStarted
         * @description An attempt was claimed for a server. Stored before the server is called.
         */
        AttemptStarted: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "AttemptStarted";
            attempt?: number;
            server_id?: string;
            worker_id?: string;
            deadline?: string;
            token_digest?: string;
        };
        /**
         * BatchAnswer
         * @description An accepted batch: all of its tasks are on disk.
         */
        BatchAnswer: {
            /** @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice */
            batchId: string;
            /**
             * @description In the order of the body.
             * @example [
             *       "01KDW1Z6P0ABCDEFGHJKMNPQ00~alice",
             *       "01KDW1Z6P0ABCDEFGHJKMNPQ01~alice"
             *     ]
             */
            taskIds: string[];
            /** @description True if an earlier request with this Idempotency-Key stored the batch: this one stored nothing. */
            repeated: boolean;
            /**
             * @description Tasks whose concurrency key was in use and whose type refuses new tasks then. They are cancelled; the others go
             *     on. A task that the service could not decide on at once shows the refusal later.
             */
            refused: components["schemas"]["RefusedItem"][];
        };
        /**
         * BatchItem
         * @description A task of a batch: the full form, in which `dependsOn` may name others of the batch by their places.
         */
        BatchItem: {
            /** @description The task's input: any JSON that its type allows. */
            payload: unknown;
            /**
             * @description Default: "default".
             * @example resize
             */
            type?: string;
            /** @description By default the priority of the type. */
            priority?: ("high" | "low" | "normal") | null;
            /**
             * @description Seconds one attempt may take.
             * @example 120
             */
            timeout?: number | null;
            /**
             * @description Attempts in all, including the first.
             * @example 3
             */
            attempts?: number | null;
            /**
             * @description The earliest start. Milliseconds since the epoch or ISO 8601, like every instant here.
             * @example 1767225600000
             */
            runAt?: number | string | null;
            /** @description Seconds from now to the earliest start. Use this or `runAt`. */
            delay?: number | null;
            /**
             * @description The latest start. A task that still waits then fails.
             * @example 1767225600000
             */
            expiresAt?: number | string | null;
            /** @description The latest end. A task that has not ended by then fails, wherever it is. */
            deadline?: number | string | null;
            /**
             * @description Ids of tasks of the same owner, or places in this batch (from 0), that must end first.
             * @example []
             */
            dependsOn?: (string | number)[];
            /**
             * @description What happens to this task when a task it depends on does not succeed. Default: "fail".
             * @enum {unknown}
             */
            onParentFailure?: "fail" | "run" | "skip";
            /** @description Tasks of the same owner, type and key share one concurrency limit, which the type sets. */
            concurrencyKey?: string;
            /** @description Labels of the servers that should run the task if one is free. */
            prefer?: {
                [key: string]: string;
            };
            /** @description Labels a server must have to run the task. */
            require?: {
                [key: string]: string;
            };
        };
        /**
         * BatchPage
         * @description Batches, newest first.
         */
        BatchPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            batches: components["schemas"]["ListedBatch"][];
        };
        /**
         * BatchSummary
         * @description A batch and its progress.
         */
        BatchSummary: {
            /** @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice */
            id: string;
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            owner: string;
            /** @description Tasks submitted with it. */
            size: number;
            /**
             * @description Its tasks by status, without deleted ones.
             * @example {
             *       "WAITING": 1,
             *       "PROCESSING": 0,
             *       "FINISHED": 1,
             *       "FAILED": 0,
             *       "CANCELLED": 0
             *     }
             */
            counts: {
                [key: string]: number;
            };
            /** @description Waiting tasks that are held: they are in no queue yet. */
            held: number;
            /**
             * @description Percent: the mean over its tasks. A task that has ended counts as 100.
             * @example 40
             */
            progress: number;
            /** @description True if all tasks have ended. A retry by hand makes it false again. */
            done: boolean;
            /** @example 1767225600000 */
            createdAt: number;
            /**
             * @description When one of its tasks last changed.
             * @example 1767225600000
             */
            updatedAt: number | null;
            /**
             * @description When the last task ended; null until then.
             * @example 1767225600000
             */
            endedAt: number | null;
        };
        /**
         * BatchTask
         * @description A task of a batch.
         */
        BatchTask: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @enum {unknown} */
            status: "CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING";
            /** @example resize */
            type: string;
            /** @enum {unknown} */
            priority: "high" | "low" | "normal";
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            owner: string;
            /**
             * @description The server that runs it, or ran it last; null before the first attempt.
             * @example gpu-1
             */
            serverId: string | null;
            /**
             * @description Why the task or its last attempt failed; null if nothing failed.
             * @example the server answered 500
             */
            error: string | null;
            /**
             * @description Percent, from the last report of the server.
             * @example 40
             */
            progress: number | null;
            /**
             * @description From the last report of the server.
             * @example frame 4 of 10
             */
            message: string | null;
            /** @description Number of the last attempt, from 1; 0 before the first. */
            attempt: number;
            /**
             * @description Attempts it gets in all.
             * @example 3
             */
            attempts: number;
            /**
             * @description Milliseconds since the epoch, as are all times of a task.
             * @example 1767225600000
             */
            createdAt: number;
            /** @example 1767225600000 */
            updatedAt: number;
            /**
             * @description When the first attempt began.
             * @example 1767225600000
             */
            startedAt: number | null;
            /** @example 1767225600000 */
            endedAt: number | null;
            /**
             * @description When the next attempt is due; null unless the task waits for one.
             * @example 1767225600000
             */
            nextAttemptAt: number | null;
            /**
             * @description Where a server sends updates (PUT).
             * @example https://tasks.example.org/api/task/01KDW1Z6P00000000000000000~alice
             */
            callbackUrl: string;
            /** @description True while the task must wait before it is queued. `GET /api/task/{id}/why` says for what. */
            held: boolean;
            /** @description The kind of failure in `error`; null if nothing failed. */
            failureKind: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost") | null;
            /**
             * @description The earliest start.
             * @example 1767225600000
             */
            runAt: number | null;
            /**
             * @description The latest start.
             * @example 1767225600000
             */
            expiresAt: number | null;
            /** @description The latest end. A task that has not ended by then fails. */
            deadline: number | null;
            concurrencyKey: string | null;
            /**
             * @description The batch it was submitted with.
             * @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice
             */
            batchId: string | null;
            /** @description The recurring schedule that submitted it. */
            scheduleId: string | null;
            /**
             * @description What became of the attempt that ran when the task was cancelled: the server `confirmed` that it stopped; it was
             *     told so (`requested`); it did not say so (`unconfirmed`); it cannot be told (`impossible`). Null: none ran, or it is
             *     not known, or not yet.
             */
            cancelOutcome: ("confirmed" | "impossible" | "requested" | "unconfirmed") | null;
            /** @description Its index in the batch, from 0. */
            index: number;
            /**
             * @description A TaskResult; null without `results`.
             * @example {
             *       "url": "https://example.org/out.png"
             *     }
             */
            result: unknown;
        };
        /**
         * BatchTaskPage
         * @description Tasks of a batch, in the order of its body.
         */
        BatchTaskPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            /** @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice */
            batchId: string;
            tasks: components["schemas"]["BatchTask"][];
        };
        /**
         * BulkAnswer
         * @description The outcome of a command for many tasks. `matched` is the sum of `done`, `unchanged` and the refused ones.
         *
         *         With a `nextCursor` more tasks may match: send it as `cursor` with the same filter.
         */
        BulkAnswer: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            /** @description True if nothing changed: these are the counts of what would. */
            dryRun: boolean;
            matched: number;
            done: number;
            /** @description Tasks the command did not change: they were already so. */
            unchanged: number;
            refused: components["schemas"]["RefusedTasks"][];
        };
        /**
         * BulkBody
         * @description Tasks, by ids or by a filter: exactly one of the two.
         */
        BulkBody: {
            ids?: string[] | null;
            /** @description Change nothing, and return what would change. Default: false. */
            dryRun?: boolean;
            /** @description Recorded in the history of each task. */
            reason?: string;
            /** @description `nextCursor` of the previous answer, to continue with the same filter. */
            cursor?: string | null;
            filter?: components["schemas"]["BulkFilter"] | null;
        };
        /**
         * BulkFilter
         * @description Tasks that match every field given. At least one field besides `owner` is required.
         */
        BulkFilter: {
            status?: ("CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING")[] | null;
            type?: string[] | null;
            pool?: string[] | null;
            /** @description Ids of the servers that run them, or ran them last. */
            server?: string[] | null;
            priority?: ("high" | "low" | "normal")[] | null;
            /** @description `failureKind` of the tasks. */
            kind?: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost")[] | null;
            /** @description What waiting tasks wait for, as far as their own histories say. */
            hold?: ("limit" | "parents" | "retry" | "server-busy" | "time")[] | null;
            /**
             * @description Labels that they require or prefer.
             * @example {
             *       "gpu": "a100"
             *     }
             */
            labels?: {
                [key: string]: string;
            };
            /** @description Values of searchable fields: `{"customer": "acme"}` for `$.customer` of the type's `indexed`. */
            payload?: {
                [key: string]: string;
            };
            /**
             * @description A part of the error; upper and lower case of the letters A to Z are the same.
             * @example the server answered 500
             */
            error?: string | null;
            /** @description Fingerprint of the error, from `GET /api/errors`. */
            shape?: string | null;
            /**
             * @description Their last attempt has this number or a higher one. Default: 0.
             * @example 3
             */
            attempts?: number;
            /** @description Their concurrency key. */
            key?: string | null;
            /**
             * @description Beginning of their ids.
             * @example 01KDW1Z6P00000000000000000~alice
             */
            id?: string | null;
            /** @description From the first start to the end, of running tasks until now: seconds, or as in `90s`, `5m`, `1h`. */
            minRun?: number | string | null;
            /** @description Id of their batch. */
            batch?: string | null;
            /** @description Id of the recurring schedule that submitted them. */
            schedule?: string | null;
            /** @description The name of a project of the queue surface. */
            project?: string | null;
            /** @description Submitted at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`. */
            createdAfter?: number | (string | unknown | unknown) | null;
            /**
             * @description The same as `createdAfter`.
             * @example 1767225600000
             */
            createdSince?: number | (string | unknown | unknown) | null;
            /** @description Submitted before this. */
            createdBefore?: number | (string | unknown | unknown) | null;
            /**
             * @description First started at or after this.
             * @example 1767225600000
             */
            startedSince?: number | (string | unknown | unknown) | null;
            startedBefore?: number | (string | unknown | unknown) | null;
            /**
             * @description Ended at or after this.
             * @example 1767225600000
             */
            endedSince?: number | (string | unknown | unknown) | null;
            endedBefore?: number | (string | unknown | unknown) | null;
            /**
             * @description Last changed at or after this.
             * @example 1767225600000
             */
            updatedSince?: number | (string | unknown | unknown) | null;
            updatedBefore?: number | (string | unknown | unknown) | null;
            /**
             * @description A user. Others than the caller: admins only, in lists also auditors, who may name all with `*`. They see
             *     everybody's by default, and must name the owner of what they change.
             * @example alice
             */
            owner?: string | null;
        };
        /**
         * CancelReported
         * @description What became of the work of a server whose task was cancelled while it ran; the task stays as it is.
         */
        CancelReported: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "CancelReported";
            attempt?: number;
            server_id?: string;
            /** @enum {unknown} */
            outcome?: "confirmed" | "impossible" | "requested" | "unconfirmed";
            detail?: string;
        };
        /**
         * CancellationBody
         * @description The request that stops a job.
         */
        CancellationBody: {
            /**
             * @description Default: "POST".
             * @enum {unknown}
             */
            method?: "DELETE" | "GET" | "PATCH" | "POST" | "PUT";
            /**
             * @description With `{id}`, unless the body has `$id`. Null: the acceptance names it.
             * @example https://example.org/hooks/tasks
             */
            url?: string | null;
            /**
             * @description JSON with placeholders; null: no body.
             * @example down for maintenance
             */
            body?: unknown;
            /** @description An answer that says that the job has stopped; null: none does. */
            confirmed?: number[] | string | components["schemas"]["AnswerTestBody"] | null;
        };
        /**
         * ChaptersBody
         * @description How many chapters to write.
         */
        ChaptersBody: {
            /** @description A number, or its digits as text; by default 1. */
            chaptersToGenerate?: number | string | null;
        };
        /**
         * DeliveryPage
         * @description Deliveries, the last changed first.
         */
        DeliveryPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            deliveries: components["schemas"]["DeliverySummary"][];
        };
        /**
         * DeliverySummary
         * @description One message of a webhook and its state.
         */
        DeliverySummary: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description The header `webhook-id`, the same in each attempt.
             * @example msg_01KDW1Z6P0C6N4T0Z5V3Q9H8RB
             */
            messageId: string;
            /** @example task.succeeded */
            type: string;
            /**
             * @description Null: a test.
             * @example 01KDW1Z6P00000000000000000~alice
             */
            taskId: string | null;
            /** @description Sequence of the event in the log; null: a test. */
            sequence: number | null;
            /**
             * @description `failed`: no more attempts.
             * @enum {unknown}
             */
            status: "delivered" | "failed" | "waiting";
            /**
             * @description Calls so far. A call that paused the webhook counts here, and uses up no try.
             * @example 3
             */
            attempts: number;
            /** @example 1767225600000 */
            createdAt: number;
            /**
             * @description Not before the webhook's pause ends.
             * @example 1767225600000
             */
            nextAttemptAt: number | null;
            /**
             * @description The end of the pause it waits for; null: it waits for none.
             * @example 1767225600000
             */
            pausedUntil: number | null;
            /** @example 1767225600000 */
            endedAt: number | null;
            lastAttempt: components["schemas"]["LastTry"] | null;
            /**
             * @description The attempts, oldest first, the last one included: the first and the latest 19. A delivery that was given up
             *     without a call has that as its last one.
             */
            tries: components["schemas"]["LastTry"][];
        };
        /**
         * DetectAnswer
         * @description What the probes of a server found now.
         */
        DetectAnswer: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @description Null: none was found. */
            dialect: string | null;
            /** @description Name of the preset that fits its program; null: none. */
            preset: string | null;
            /** @description Its program, as it says; null: unknown. */
            program: string | null;
            /** @description Why no dialect was found; null: one was. */
            reason: string | null;
            /** @description True: this dialect applies now. False: none was found, or the registration names its `dialect` itself. */
            applied: boolean;
            /** @description What it was asked, in order, and what its answers had. */
            evidence: components["schemas"]["EvidenceInfo"][];
        };
        /**
         * DetectedInfo
         * @description What a server was found to speak.
         */
        DetectedInfo: {
            dialect: string;
            /** @description Name of the preset that fits its program; null: none. */
            preset: string | null;
            /** @description Its program, as it says. */
            program: string | null;
            /**
             * @description When this was found.
             * @example 2026-01-01T00:00:00.000Z
             */
            at: string;
            /** @description What it was asked, in order, and what its answers had. */
            evidence: components["schemas"]["EvidenceInfo"][];
        };
        /**
         * Done
         * @description Done.
         */
        Done: {
            success: boolean;
        };
        /**
         * DoneAnswer
         * @description The command is done.
         */
        DoneAnswer: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            success: boolean;
        };
        /**
         * DrainAnswer
         * @description The server finishes its tasks and gets no new ones.
         */
        DrainAnswer: {
            /** @example gpu-1 */
            id: string;
            success: boolean;
            /**
             * @description When the drain began; repeating it does not change this.
             * @example 2026-01-01T00:00:00.000Z
             */
            since: string;
            /** @description Tasks still running on it. */
            running: number;
            /** @description True: nothing runs on it, and nothing starts before it is resumed. It is safe to shut down. */
            drained: boolean;
        };
        /**
         * EndedInfo
         * @description How a task ended.
         */
        EndedInfo: {
            /** @example 1767225600000 */
            at: number;
            /** @description Who ended it: `kind` (user, server, worker, timer, system) and `id`. */
            by: {
                [key: string]: string;
            };
            /** @description Why it failed or was cancelled; null if it succeeded. */
            reason: string | null;
            failureKind: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost") | null;
            /** @description The parent whose failure ended it; null if none did. */
            parentId: string | null;
            /** @description As of the task. */
            cancelOutcome: ("confirmed" | "impossible" | "requested" | "unconfirmed") | null;
            /** @description Why, in words. */
            cancelDetail: string | null;
            /** @description What can be done now. */
            release: string;
        };
        /**
         * Endpoints
         * @description URLs of a server.
         */
        Endpoints: {
            /**
             * Format: uri
             * @description http(s) URL that takes tasks (POST).
             */
            predict: string;
            /**
             * @description http(s) URL whose 2xx means healthy (GET). Null: the dialect's own check, if it has one (`oip`), else heartbeats
             *     keep the server online.
             */
            health?: string | null;
        };
        /**
         * EndpointsChange
         * @description The URLs of a server to change; others stay.
         */
        EndpointsChange: {
            /** Format: uri */
            predict?: string;
            /** @description Null: the dialect's own check, if it has one, else heartbeats keep the server online. */
            health?: string | null;
        };
        /**
         * ErrorAnswer
         * @description The error that a server answered, for clients that get it as it is.
         */
        ErrorAnswer: {
            status: number;
            body: unknown;
        };
        /**
         * EventPage
         * @description Events of a task, oldest first; with `before`, newest first.
         */
        EventPage: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
            events: components["schemas"]["RecordedEvent"][];
            /** @description Pass as `after` to get the next page; null after the last page, and with `before`. */
            nextAfter: number | null;
            /** @description Pass as `before` to get the next page, of older events; null after the last page, and without `before`. */
            nextBefore: number | null;
            /** @description Events of the task, of all kinds. */
            total: number;
            /** @description True: `after` is not in this log, so the page starts with the oldest event. */
            reset: boolean;
        };
        /**
         * EvidenceInfo
         * @description One probe.
         */
        EvidenceInfo: {
            /**
             * @description Below the server's base address.
             * @example $.payload.width
             */
            path: string;
            /** @description Of the answer; null: there was none. */
            status: number | null;
            /** @description What the answer had, or why there is none; null: nothing that is known. */
            sign: string | null;
        };
        /**
         * ExchangeBody
         * @description How to talk to a server of the dialect `bare`.
         */
        ExchangeBody: {
            /** @description Null: a POST of the payload. */
            request?: components["schemas"]["RequestTemplateBody"] | null;
            /**
             * @description Path to the result; null: the answer is the result. An answer without it is a failed attempt. A path with
             *     more than names and places finds a list.
             */
            result?: string | null;
            /** @description The task has failed, for good. Like the two below, it is tried on every answer, whatever its status. */
            failWhen?: number[] | string | components["schemas"]["AnswerTestBody"] | null;
            /** @description The attempt has failed; the task may be tried again. */
            retryWhen?: number[] | string | components["schemas"]["AnswerTestBody"] | null;
            /** @description The server takes no task now, beside `busyStatus`: the task waits and loses no attempt. */
            busyWhen?: number[] | string | components["schemas"]["AnswerTestBody"] | null;
            /**
             * @description Path to the reason of a failure; null: where servers usually have it.
             * @example the server answered 500
             */
            error?: string | null;
            /** @description Null: the answer to the first request has the result. */
            accepted?: components["schemas"]["AcceptanceBody"] | null;
            /** @description Required with `accepted`. */
            poll?: components["schemas"]["PollBody"] | null;
            /** @description Null: closing the connection is all there is. */
            cancel?: components["schemas"]["CancellationBody"] | null;
            /** @description Null: a streamed answer is read whole, as text. */
            stream?: components["schemas"]["StreamedPartsBody"] | null;
        };
        /**
         * ExpectBody
         * @description What the answer to a health check must have. At least one is required.
         */
        ExpectBody: {
            /** @description This status, or one of these. By default any 2xx. */
            status?: number | number[];
            /** @description Values that its JSON body must have, by path: `{"$.model.loaded": true, "$.workers[0]": "up"}`. */
            json?: {
                [key: string]: string | number | boolean | null;
            };
        };
        /**
         * FacadeRequest
         * @description What a task was submitted as: a request in the form of another service's API.
         */
        FacadeRequest: {
            /** @enum {unknown} */
            name: "openai" | "replicate";
            endpoint?: string;
            model?: string;
            webhook?: string;
            webhook_events?: string[];
            is_stream?: boolean;
            metadata?: {
                [key: string]: string;
            };
        };
        /**
         * FailedRuns
         * @description Runs whose tasks could not be submitted.
         */
        FailedRuns: {
            /** @example 1767225600000 */
            at: number;
            runs: components["schemas"]["ScheduledRun"][];
            /** @example the server answered 500 */
            error: string;
            /**
             * @description Path in `task` of what is wrong; null if no part of it is.
             * @example $.payload.width
             */
            path: string | null;
        };
        /**
         * FileLink
         * @description A signed link: whoever has it may read the file, without any header.
         */
        FileLink: {
            /** @example https://example.org/hooks/tasks */
            url: string;
            /** @example 2026-01-01T00:00:00.000Z */
            expiresAt: string;
        };
        /**
         * FileLinkBody
         * @description How long a link is valid.
         */
        FileLinkBody: {
            /** @description Seconds, at most a week. The link ends earlier if the file is deleted. Default: 3600. */
            expiresIn?: number;
        };
        /**
         * FileSummary
         * @description A file.
         */
        FileSummary: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description Empty: it has none.
             * @example resize
             */
            name: string;
            mediaType: string;
            bytes: number;
            /** @description Of its bytes, hex. */
            sha256: string;
            /** @description Empty: not said. */
            purpose: string;
            metadata: {
                [key: string]: string;
            };
            /**
             * @description The `sub` of its owner.
             * @example alice
             */
            owner: string;
            /**
             * @description The task whose attempt stored it; null: none.
             * @example 01KDW1Z6P00000000000000000~alice
             */
            taskId: string | null;
            /** @example 2026-01-01T00:00:00.000Z */
            createdAt: string;
            /**
             * @description It is deleted after this instant. Null: the retention of files decides, and the tasks that refer to it.
             * @example 2026-01-01T00:00:00.000Z
             */
            expiresAt: string | null;
            /**
             * @description Of its bytes; it needs a token of the API.
             * @example https://example.org/hooks/tasks
             */
            url: string;
        };
        /**
         * FilesPage
         * @description Files, newest first.
         */
        FilesPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            files: components["schemas"]["FileSummary"][];
        };
        /**
         * FiredRuns
         * @description Runs that were submitted together.
         */
        FiredRuns: {
            /**
             * @description When they were submitted, which is later than they were due.
             * @example 1767225600000
             */
            at: number;
            runs: components["schemas"]["ScheduledRun"][];
        };
        /**
         * HoldInfo
         * @description Something that keeps a task from starting.
         */
        HoldInfo: {
            /** @enum {unknown} */
            kind: "concurrency-key" | "key-unreadable" | "no-keeper" | "no-server" | "not-queued" | "owner-limit" | "parents" | "pool-paused" | "project" | "queued-behind" | "retry" | "server-busy" | "store-full" | "time" | "turn" | "type-limit" | "type-paused" | "window";
            /**
             * @description Null if unknown.
             * @example 1767225600000
             */
            since: number | null;
            /** @description The reason in words. */
            text: string;
            /** @description What ends it, in words. */
            release: string;
            /** @description The same as data; the fields depend on `kind`. */
            data: Record<string, never>;
        };
        /**
         * ItemProblem
         * @description The error of one of several items sent together.
         */
        ItemProblem: {
            /** @description Index of the item, from 0. */
            index: number;
            /** @example the server answered 500 */
            error: string;
            /**
             * @description Where in the item, as in `$.payload.width`.
             * @example $.payload.width
             */
            path?: string | null;
        };
        /**
         * KeyBody
         * @description A key to make. It gets no more rights than the caller has.
         */
        KeyBody: {
            /**
             * @description What it is for. Printable characters, without spaces at its ends.
             * @example resize
             */
            name: string;
            roles: ("admin" | "auditor" | "service" | "user")[];
            /**
             * @description The user it acts for; the caller by default. Another one needs the role `admin`.
             * @example alice
             */
            owner?: string | null;
            /**
             * @description It reaches only tasks of these types; empty: of all.
             * @example [
             *       "resize"
             *     ]
             */
            types?: string[];
            /** @description For the role `service`: the servers it acts for, as the claim of a JWT. */
            servers?: string[] | null;
            /**
             * @description ISO 8601 or milliseconds since the epoch; null: it does not expire.
             * @example 1767225600000
             */
            expiresAt?: number | string | null;
            /** @description Requests per second; more are answered with 429. Null: any number. */
            rate?: number | null;
            /** @description Whether it reads payloads of other users' tasks, as the claim of a JWT. */
            payloads?: boolean | null;
        };
        /**
         * KeyPage
         * @description API keys, newest first.
         */
        KeyPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            keys: components["schemas"]["KeySummary"][];
        };
        /**
         * KeySummary
         * @description An API key, without its text.
         */
        KeySummary: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @example resize */
            name: string;
            /**
             * @description The user it acts for.
             * @example alice
             */
            owner: string;
            /**
             * @description `orphaned`: the key that made it has ended.
             * @enum {unknown}
             */
            status: "active" | "expired" | "orphaned" | "revoked";
            roles: string[];
            /**
             * @example [
             *       "resize"
             *     ]
             */
            types: string[];
            servers: string[] | null;
            payloads: boolean | null;
            rate: number | null;
            /** @example 1767225600000 */
            createdAt: number;
            /** @description `kind`, `id`, and `key` if a key made it. */
            createdBy: {
                [key: string]: string;
            };
            /** @example 1767225600000 */
            expiresAt: number | null;
            /**
             * @description Up to a minute ago; null: it was not used, or this is not known any more.
             * @example 1767225600000
             */
            lastUsedAt: number | null;
            /** @example 1767225600000 */
            revokedAt: number | null;
            revokedBy: {
                [key: string]: string;
            } | null;
            /** @description Why it was revoked. */
            reason: string;
        };
        /**
         * LastTry
         * @description One attempt of a delivery.
         */
        LastTry: {
            /** @example 1767225600000 */
            at: number;
            /** @description HTTP status; null: no answer. */
            status: number | null;
            /**
             * @description Why it failed; null: delivered.
             * @example the server answered 500
             */
            error: string | null;
            /**
             * @description The beginning of the receiver's answer; empty unless it came from a public address.
             * @example down for maintenance
             */
            body: string;
            elapsedMs: number;
        };
        /** @description A result that is too large for an event. Its other field, `$ref`, is the URL to fetch it from. */
        LinkedResult: {
            bytes: number;
        };
        /**
         * ListedBatch
         * @description A batch in a list.
         */
        ListedBatch: {
            /** @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice */
            id: string;
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            owner: string;
            /** @description Tasks submitted with it. */
            size: number;
            /**
             * @description Its tasks by status; null without `counts`.
             * @example {
             *       "WAITING": 1,
             *       "PROCESSING": 0,
             *       "FINISHED": 1,
             *       "FAILED": 0,
             *       "CANCELLED": 0
             *     }
             */
            counts: {
                [key: string]: number;
            } | null;
            /** @example 1767225600000 */
            createdAt: number;
        };
        /**
         * MaintenanceAnswer
         * @description Maintenance has begun or ended.
         */
        MaintenanceAnswer: {
            /** @example gpu-1 */
            id: string;
            success: boolean;
            maintenance: boolean;
        };
        /**
         * MaintenanceBody
         * @description The beginning or the end of maintenance.
         */
        MaintenanceBody: {
            /** @description Recorded in the log. */
            reason?: string;
            maintenance: boolean;
        };
        /**
         * Me
         * @description The caller. Times are ISO 8601, UTC.
         */
        Me: {
            /** @description The `sub` of the token: the owner of what the caller submits. */
            subject: string;
            /** @description Those that this service knows, by name. */
            roles: string[];
            /**
             * @description When the token is accepted no more; its streams end then. In the year 9999: a key that does not expire.
             * @example 2026-01-01T00:00:00.000Z
             */
            expiresAt: string;
            /** @description The clock of the process that answers. */
            serverTime: string;
            /** @description Of the service. */
            version: string;
            /** @description Id of the API key that was used; null: a JWT was. */
            key: string | null;
            /**
             * @description The key reaches only tasks of these types; null: all.
             * @example [
             *       "resize"
             *     ]
             */
            types: string[] | null;
            may: components["schemas"]["Permissions"];
        };
        /**
         * MergedReport
         * @description A report that ended a chapter and was merged into the next ones.
         */
        MergedReport: {
            report: number;
            custom_data: unknown;
        };
        /**
         * ModelChoice
         * @description The model that the submitter chose. Its key is never here.
         */
        ModelChoice: {
            provider?: string;
            model?: string;
            base_url?: string;
        };
        /**
         * NewKey
         * @description A new key.
         */
        NewKey: {
            /** @description Its text. It is shown this once, and stored nowhere. */
            key: string;
            details: components["schemas"]["KeySummary"];
        };
        /**
         * OutlineBody
         * @description The outline to write.
         */
        OutlineBody: {
            /** @description A number, or its digits as text; by default 400. */
            targetChapters?: number | string | null;
            /** @description In the unit of the servers of type `outline`; by default 100. */
            targetWordCount?: number | string | null;
            customPrompt?: string | null;
        };
        /**
         * OverflowBody
         * @description When an overflow server takes work: from either threshold until half of it. At least one is required.
         */
        OverflowBody: {
            /** @description More than this many tasks wait in its pools. */
            waiting?: number | null;
            /** @description The oldest task in its pools has waited this many seconds. */
            oldest?: number | null;
        };
        /**
         * PastScheduleRun
         * @description A run that is over for the schedule; its task may still run.
         */
        PastScheduleRun: {
            /**
             * @description `fired`: its task was submitted. `refused`: the task was refused. `missed`: no process could fire it in time.
             *     `skipped`: the schedule was paused. `triggered`: started by a request.
             * @enum {unknown}
             */
            outcome: "fired" | "missed" | "refused" | "skipped" | "triggered";
            /**
             * @description When it was due, of several the first. Null: it was triggered.
             * @example 1767225600000
             */
            dueAt: number | null;
            /**
             * @description When it was recorded.
             * @example 1767225600000
             */
            at: number;
            /** @description How many runs were missed or skipped together, at most 1,000 for one absence; else 1. */
            count: number;
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string | null;
            /** @description Of its task. Null: there is none, it is about to be submitted, it was deleted, or it is past its retention. */
            status: ("CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING") | null;
            failureKind: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost") | null;
            /**
             * @description Why the task was refused, or failed.
             * @example the server answered 500
             */
            error: string | null;
            /**
             * @description Path in the schedule's task of what was refused; null if no part of it is.
             * @example $.payload.width
             */
            path: string | null;
        };
        /**
         * PauseInfo
         * @description A pause: queued tasks wait, running ones go on.
         */
        PauseInfo: {
            /** @example 2026-01-01T00:00:00.000Z */
            since: string;
            /** @description The `sub` of the caller's token. */
            by: string;
            reason: string;
        };
        /**
         * Permissions
         * @description What the caller may do.
         */
        Permissions: {
            /** @description Submit tasks, batches, schedules and webhooks. */
            submit: boolean;
            /** @description Read what other users own. */
            readAll: boolean;
            /** @description Change servers, types, pools and limits, and what other users own. */
            administer: boolean;
            /** @description Read payloads and results of other users' tasks. Those of one's own are always readable. */
            readPayloads: boolean;
        };
        /**
         * Plan
         * @description Conditions of the submitter: when, after which tasks and on which servers a task may run.
         */
        Plan: {
            not_before?: string | null;
            expires_at?: string | null;
            ends_by?: string | null;
            depends_on?: string[];
            /** @enum {unknown} */
            on_parent_failure?: "fail" | "run" | "skip";
            concurrency_key?: string;
            project?: string;
            prefer?: {
                [key: string]: string;
            };
            require?: {
                [key: string]: string;
            };
            model?: string;
            session?: string;
        };
        /**
         * PollBody
         * @description How to ask for a job until it has ended.
         *
         *         Without an answer, and after 5xx, the poll is repeated with growing pauses, up to `patience`. 429 and 503: later.
         *         404 and 410: the server lost the job, and the attempt has failed.
         */
        PollBody: {
            /** @description The job is done. Required, unless the answer is streamed. */
            done?: number[] | string | components["schemas"]["AnswerTestBody"] | null;
            /** @description The task has failed, for good; beside `failWhen`. */
            failed?: number[] | string | components["schemas"]["AnswerTestBody"] | null;
            /**
             * @description Default: "GET".
             * @enum {unknown}
             */
            method?: "GET" | "POST";
            /**
             * @description With `{id}`: the id of the job. Relative to the predict URL, which counts as a folder. Null: the acceptance
             *     names it.
             * @example https://example.org/hooks/tasks
             */
            url?: string | null;
            /** @description Seconds between polls; more if the answer has a `Retry-After`. Default: 1. */
            interval?: number;
            /** @description Seconds of pauses without an answer about the job, after which the attempt has failed. Default: 60. */
            patience?: number;
            /** @description Path to the progress. */
            progress?: string | null;
            /** @description The progress of a job that is done, such as 1 for fractions. Default: 100. */
            progressMax?: number;
            /**
             * @description Path to a text that is shown with the progress.
             * @example frame 4 of 10
             */
            message?: string | null;
            /** @description Path to the log so far: a text, or a list of lines. */
            logs?: string | null;
            /** @description With `{id}`: where the result of a job that is done is (GET). Null: in the poll's answer. */
            resultUrl?: string | null;
        };
        /** @description The call of a server. */
        PredictRequest: {
            task_id: string;
            type: string;
            /** @description The payload as submitted. */
            request: unknown;
            async: boolean;
            /** @description 1 for the first try. */
            attempt: number;
            /** @description Milliseconds since the epoch. */
            deadline: number;
            callback_url?: string;
            callback_token?: string;
            parents?: Record<string, never>[];
        };
        /**
         * PreviewBody
         * @description A cron expression to look at.
         */
        PreviewBody: {
            /** @example 30 2 * * * */
            cron: string;
            /**
             * @description Default: "UTC".
             * @example Europe/Berlin
             */
            timeZone?: string;
        };
        /**
         * Problem
         * @description A problem document (RFC 9457).
         */
        Problem: {
            /** @example about:blank */
            type: string;
            title: string;
            status: number;
            detail: string;
            instance: string;
            /**
             * @description The same as `detail`, for older clients.
             * @example $.payload: "width" is a required property (rule `required`)
             */
            error: string;
            /** @description False, on the queue surface only. */
            success?: boolean | null;
            /**
             * @description Where in the request, as in `$.payload.width`.
             * @example $.payload.width
             */
            path?: string | null;
            /** @description Of a batch: the error of each invalid item. */
            errors?: components["schemas"]["ItemProblem"][] | null;
            /** @description Of a 429: the exceeded quotas, named as in `RateLimit-Policy`. */
            "violated-policies"?: string[] | null;
        };
        /**
         * ProgressReported
         * @description Progress of an attempt. Frequent reports are stored as one event.
         */
        ProgressReported: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "ProgressReported";
            attempt?: number;
            progress?: number | null;
            message?: string | null;
            custom_data?: unknown;
            lines?: string[];
            output?: string;
            batch?: string;
            reports?: number;
            notes?: string[];
            merged?: components["schemas"]["MergedReport"][];
            data?: components["schemas"]["StoredResult"] | components["schemas"]["LinkedResult"] | null;
            earlier?: number | null;
            parts?: components["schemas"]["StreamParts"] | null;
        };
        /**
         * PulledFailure
         * @description The failure of an attempt.
         */
        PulledFailure: {
            /** @example the server answered 500 */
            error: string;
            /** @description True: the task is tried again, if it has attempts left. False: it fails. Default: false. */
            retry?: boolean;
            /** @description Seconds before the next attempt, at the earliest. */
            retryAfter?: number | null;
            /**
             * @description Kept with a task that fails: `data` of its result.
             * @example {
             *       "url": "https://example.org/out.png"
             *     }
             */
            result?: unknown;
        };
        /**
         * PulledModel
         * @description The model that the submitter of the task chose.
         */
        PulledModel: {
            /** @example example */
            provider: string | null;
            model: string | null;
            baseUrl: string | null;
            /** @description The submitter's own key. Do not store or log it. */
            key: string | null;
        };
        /**
         * PulledProgress
         * @description Progress of an attempt. Every field is optional; a value of a wrong type is left out, and noted.
         */
        PulledProgress: {
            /**
             * @description Percent; clamped to 0 to 100.
             * @example 40
             */
            progress?: number | null;
            /**
             * @description Shortened to 2,000 characters.
             * @example frame 4 of 10
             */
            message?: string | null;
            /** @description Anything; kept with the progress. */
            custom_data?: unknown;
            /** @description A line of the puller's log, shown to followers of the task. */
            log?: string | null;
            /** @description Text produced since the last report. */
            output?: string | null;
            /** @description The result as far as it is known. */
            data?: unknown;
        };
        /**
         * PulledResult
         * @description The result of an attempt.
         */
        PulledResult: {
            /**
             * @description Any JSON: `data` of the task's result.
             * @example {
             *       "url": "https://example.org/out.png"
             *     }
             */
            result?: unknown;
            /** @example frame 4 of 10 */
            message?: string | null;
            /** @description More about it, kept with the result. */
            metadata?: Record<string, never>;
        };
        /**
         * PulledStanding
         * @description What has become of an attempt.
         */
        PulledStanding: {
            attempt: string;
            /**
             * @description `running`: it is the puller's, and its lease was renewed. `recorded`: it is over by this report, now or when it
             *     came before. `gone`: it was over already, and nothing was recorded: stop, and do not repeat.
             * @enum {unknown}
             */
            status: "gone" | "recorded" | "running";
            /** @description True: its task was cancelled; stop working on it. */
            cancelled: boolean;
            /** @description Milliseconds since the epoch, while it runs. */
            deadline: number | null;
            /** @description While it runs: renew it more often than that. */
            leaseSeconds: number | null;
        };
        /**
         * PulledTask
         * @description An attempt that is the puller's, while it renews it.
         */
        PulledTask: {
            /** @description The attempt's id, for the paths of `renew`, `progress`, `done`, `fail` and `release`. */
            attempt: string;
            /**
             * @description Bearer token of these requests. It is good for this attempt only.
             * @example c2VhbGVk
             */
            token: string;
            /** @description The task's id. */
            task: string;
            /** @example resize */
            type: string;
            /** @description 1 for the first attempt of the task. */
            number: number;
            /** @description The payload of the task. */
            input: unknown;
            /** @description Milliseconds since the epoch: the attempt is over then, renewed or not. */
            deadline: number;
            /** @description Renew the attempt more often than that; three times as often is a good choice. */
            leaseSeconds: number;
            model: components["schemas"]["PulledModel"] | null;
            /** @description Results of the tasks that it depends on, as other servers get them; missing: it depends on none. */
            parents?: unknown;
            /**
             * @description Headers that name the request that submitted the task, to be sent along: `X-Request-Id`,
             *     `traceparent`, `tracestate`.
             */
            trace: {
                [key: string]: string;
            };
        };
        /** @description Something that happened to a task. */
        PushedEvent: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskSubmitted" | "TaskHeld" | "TaskQueued" | "AttemptStarted" | "AttemptAccepted" | "ProgressReported" | "AttemptFailed" | "AttemptReturned" | "TaskSucceeded" | "TaskFailed" | "TaskCancelled" | "CancelReported" | "TaskDeleted";
            taskId: string;
            /** @description Null: the log does not have the report yet. */
            sequence: number | null;
            /** Format: date-time */
            at: string;
            /** @description Who did it. */
            by: {
                kind: string;
                id: string;
            };
            event: components["schemas"]["TaskEvent"];
            /** @description For callers from whom bodies are withheld: the fields left out of `event`, and their bytes. */
            sizes?: {
                [key: string]: number;
            };
        };
        /** @description A task as it is when a stream begins. */
        PushedState: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "state";
            taskId: string;
            sequence: number;
            task: components["schemas"]["TaskDetails"] | components["schemas"]["TaskSummary"];
        };
        /**
         * QueueSubmitted
         * @description An accepted task: it is on disk.
         */
        QueueSubmitted: {
            success: boolean;
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
        };
        /**
         * QueueTaskAnswer
         * @description One task.
         */
        QueueTaskAnswer: {
            success: boolean;
            task: components["schemas"]["QueuedTask"];
        };
        /**
         * QueueTasksAnswer
         * @description Tasks of projects.
         */
        QueueTasksAnswer: {
            success: boolean;
            tasks: components["schemas"]["QueuedTask"][];
            /** @description Pass as `cursor` to get older tasks that have not ended; null after the last page. */
            nextCursor: string | null;
        };
        /**
         * QueuedTask
         * @description A task of a project.
         */
        QueuedTask: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description `chapter` or `outline`.
             * @example resize
             */
            type: string;
            /**
             * @description An id made from the project name; the same name has the same id.
             * @example novel
             */
            projectId: string;
            projectName: string;
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            userId: string;
            /**
             * @description The fields of the body, with defaults.
             * @example {
             *       "chaptersToGenerate": 3
             *     }
             */
            params: unknown;
            aiConfig: components["schemas"]["AiConfig"];
            /** @enum {unknown} */
            status: "completed" | "failed" | "pending" | "processing";
            /**
             * @description Whole percent.
             * @example 40
             */
            progress: number;
            /**
             * @description From the last report of the server; at the end `Task completed successfully`.
             * @example frame 4 of 10
             */
            message?: string | null;
            /** @example the server answered 500 */
            error?: string | null;
            /**
             * @description Milliseconds since the epoch, as are all times.
             * @example 1767225600000
             */
            createdAt: number;
            /** @example 1767225600000 */
            updatedAt: number;
            /** @example 1767225600000 */
            startedAt?: number | null;
            /** @example 1767225600000 */
            completedAt?: number | null;
        };
        /**
         * ReasonBody
         * @description The reason for a command, in words.
         */
        ReasonBody: {
            /** @description Recorded in the log. */
            reason?: string;
        };
        /**
         * RecordedEvent
         * @description An event of a task's history, as recorded.
         */
        RecordedEvent: {
            /** @description Sequence in the log: it grows, with gaps. */
            sequence: number;
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description ISO 8601, UTC.
             * @example 2026-01-01T00:00:00.000Z
             */
            at: string;
            /** @description Who did it: `kind` (user, server, worker, timer, system) and `id`. */
            by: {
                [key: string]: string;
            };
            /** @description The request id, or the sequence of the event, that caused it. */
            cause: string;
            /** @description As recorded. */
            event: components["schemas"]["TaskEvent"];
            /** @description With `bodies=false`: the fields that are left out of `event`, and their sizes in bytes; else null. */
            sizes: {
                [key: string]: number;
            } | null;
        };
        /**
         * RefusedItem
         * @description A task of a batch that was cancelled at once.
         */
        RefusedItem: {
            /** @description Its index in the batch, from 0. */
            index: number;
            /** @example the server answered 500 */
            error: string;
        };
        /**
         * RefusedTasks
         * @description Tasks that refused the command for the same reason.
         */
        RefusedTasks: {
            reason: string;
            count: number;
            ids: string[];
        };
        /**
         * RegisterAnswer
         * @description The server is registered.
         */
        RegisterAnswer: {
            /** @example gpu-1 */
            id: string;
            success: boolean;
            /**
             * @description Settings of the replaced registration that were left out and so have their defaults now; `apiKey`: the stored key
             *     is destroyed. Empty for a new server.
             */
            reset: string[];
            /** @description With the dialect `auto`: what it was found to speak now. Missing: another dialect, or it was found before. */
            detected?: components["schemas"]["DetectAnswer"];
        };
        /**
         * RegisterBody
         * @description A backend server to register. Registering the same id again replaces it.
         */
        RegisterBody: {
            /**
             * @description Its name in paths.
             * @example gpu-1
             */
            id: string;
            /** @example resize */
            name: string;
            /** @example example */
            provider: string;
            /**
             * @description `push`: tasks are sent to its endpoints. `pull`: it has none; its pullers ask for tasks with
             *     `POST /api/attempts/take`. Default: "push".
             * @enum {unknown}
             */
            mode?: "pull" | "push";
            /** @description Required, unless `mode` is `pull`. */
            endpoints?: components["schemas"]["Endpoints"];
            /** @description True: it may answer 202 and report later. Default: false. */
            async?: boolean;
            /** @description True: it reports by PUT to the `callback_url` of the request. Default: false. */
            callback?: boolean;
            /**
             * @description Task types it serves; empty: all.
             * @example [
             *       "resize"
             *     ]
             */
            types?: string[];
            /**
             * @description Tasks it runs at once. Default: 10.
             * @example 4
             */
            maxConcurrent?: number;
            /** @description Its share under weighted balancing. Default: 1. */
            weight?: number;
            /** @description Sent to the server as bearer token, or in `authHeader`. Encrypted at rest, never returned. */
            apiKey?: string | null;
            /** @description Header that carries the API key as it is, such as `X-API-Key`; null: `Authorization`, as a bearer token. */
            authHeader?: string | null;
            /**
             * @description Free text by which tasks choose servers (`require`, `prefer`).
             * @example {
             *       "gpu": "a100"
             *     }
             */
            labels?: {
                [key: string]: string;
            };
            /** @description When it takes work; null: whenever it has a free slot. */
            overflow?: components["schemas"]["OverflowBody"] | null;
            /**
             * @description Statuses by which it says that it is busy (4xx, 5xx): the task waits and loses no attempt. Null: 429 and 503;
             *     empty: none.
             */
            busyStatus?: number[] | null;
            /** @description True: the health check carries the API key. Default: false. */
            healthAuth?: boolean;
            /** @description What a healthy answer has; null: any 2xx. */
            healthExpect?: components["schemas"]["ExpectBody"] | null;
            /** @description Seconds offline after which it is removed; null: never. Left out: as TASKSTREAM_SERVER_REMOVE_AFTER says. */
            removeAfter?: number | null;
            /** @description Wire format it speaks; null: that of the task's type, else `taskstream`. `auto`: it is found out. */
            dialect?: ("auto" | "bare" | "cog" | "oip" | "openai" | "taskstream") | null;
            /** @description Its model there, for the dialect `oip`; null: `endpoints.predict` names it. */
            model?: string | null;
            /**
             * @description With the dialect `bare`: what is sent, and how answers are read. Null: the payload is the body of the request,
             *     and the answer the result.
             */
            exchange?: components["schemas"]["ExchangeBody"] | null;
            /** @description A preset, which sets all fields that are not sent: see `GET /api/presets`. */
            preset?: ("a1111" | "bentoml-task" | "comfyui" | "gradio-call" | "kserve-v1" | "ollama-chat" | "ollama-generate" | "replicate-like" | "runpod-endpoint" | "tei" | "torchserve") | null;
            /**
             * @description Of the tasks whose payload names a `model`, it gets those of these; `discover`: of those that it lists itself.
             *     Null: it gets such tasks only while no server for their type has this set.
             */
            models?: "discover" | string[] | null;
        };
        /**
         * RemovedInfo
         * @description The removal of a server.
         */
        RemovedInfo: {
            /**
             * @description When it was removed.
             * @example 2026-01-01T00:00:00.000Z
             */
            since: string;
            reason: string;
            /** @description Who removed it: `kind` (user, timer) and `id`. */
            by: {
                [key: string]: string;
            };
            /** @description True: it was removed for being offline, and is restored as soon as it answers a check or sends a heartbeat. */
            returns: boolean;
            /**
             * @description True: `POST /api/servers/{id}/restore` restores it as it was. False: its API key was destroyed, so the request
             *     must have `apiKey`.
             */
            restorable: boolean;
            /** @description When it was last checked; null: never since its removal. */
            lastCheck: string | null;
            /** @description Why that check did not restore it. */
            lastCheckReason: string | null;
            /** @description When it is checked next; null: unknown yet, or never. */
            nextCheck: string | null;
        };
        /**
         * RequestTemplateBody
         * @description The request that starts an attempt.
         */
        RequestTemplateBody: {
            /**
             * @description Default: "POST".
             * @enum {unknown}
             */
            method?: "PATCH" | "POST" | "PUT";
            /**
             * @description Relative to the predict URL, which counts as a folder; `{id}`: the id of the attempt. Null: the predict URL.
             * @example https://example.org/hooks/tasks
             */
            url?: string | null;
            /** @description Sent with every request of the attempt. They are shown to admins: a secret belongs in `apiKey`. */
            headers?: {
                [key: string]: string;
            };
            /**
             * @description JSON of at most 16 KiB. `"$payload"` becomes the payload, `"$payload.a.b"` a part of it, `"$id"` the id of the
             *     attempt, a UUID. A key whose part the payload does not have is left out. Text that begins with `$` has two of it. Default: "$payload".
             * @example down for maintenance
             */
            body?: unknown;
        };
        /**
         * RetryPolicy
         * @description How often a task is tried, and how long; fixed at submission, so that later settings do not change it.
         */
        RetryPolicy: {
            attempts: number;
            /** @description A duration (ISO 8601), as in `PT0.5S`. */
            backoff_base: string;
            /** @description A duration (ISO 8601), as in `PT0.5S`. */
            backoff_cap: string;
            /** @description A duration (ISO 8601), as in `PT0.5S`. */
            timeout: string;
            /** @description A duration (ISO 8601), as in `PT0.5S`. */
            busy_for?: string;
            callback_timeout?: string | null;
        };
        /**
         * RevokedKey
         * @description The answer to a revocation: no process accepts the key any more.
         */
        RevokedKey: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @example 1767225600000 */
            revokedAt: number;
            /**
             * @description True: every API process has said that it applied it. False: one did not answer, and was waited for until it
             *     accepts no keys, because it has no news from NATS.
             */
            confirmed: boolean;
        };
        /**
         * RunningInfo
         * @description The running attempt.
         */
        RunningInfo: {
            attempt: number;
            /** @example gpu-1 */
            serverId: string;
            /** @example 1767225600000 */
            since: number;
            /** @description When the attempt times out. */
            deadline: number | null;
            /** @description True if the server accepted the task (202) and sends updates; false if it answers with the result. */
            reportsByItself: boolean;
            /**
             * @description Percent, from the last report of the server.
             * @example 40
             */
            progress: number | null;
            /** @example frame 4 of 10 */
            message: string | null;
        };
        /**
         * ScheduleBody
         * @description A recurring schedule to create.
         */
        ScheduleBody: {
            /**
             * @description Minute, hour, day of month, month, day of week; of six, the first is seconds. Or a name such as `@daily`.
             * @example 30 2 * * *
             */
            cron: string;
            /**
             * @description Time zone of `cron`, by its IANA name, as in `Europe/Berlin`. Default: "UTC".
             * @example Europe/Berlin
             */
            timeZone?: string;
            /** @description A submission in the full form, without `runAt`, `expiresAt`, `deadline` and `dependsOn`. */
            task: unknown;
            /**
             * @description What to do about runs missed while the service was down or the schedule paused: skip them, or catch up. Default: "skip".
             * @enum {unknown}
             */
            missed?: "catch_up" | "skip";
            /** @description How many missed runs to catch up, the latest ones. Used if `missed` is `catch_up`. Default: 1. */
            catchUp?: number;
            /** @example resize */
            name?: string;
            description?: string;
        };
        /**
         * ScheduleChange
         * @description The fields of a schedule to change; others stay.
         */
        ScheduleChange: {
            /** @example 30 2 * * * */
            cron?: string;
            /** @example Europe/Berlin */
            timeZone?: string;
            task?: unknown;
            /** @enum {unknown} */
            missed?: "catch_up" | "skip";
            catchUp?: number;
            /** @example resize */
            name?: string;
            description?: string;
        };
        /** ScheduleCounts */
        ScheduleCounts: {
            /** @description Runs that were due and submitted, or refused. */
            fired: number;
            /** @description Runs missed and not caught up. At most 1,000 are counted for one downtime or pause. */
            skipped: number;
            /** @description Those of `fired` whose tasks were refused. */
            failed: number;
            /** @description Runs started by hand. */
            triggered: number;
        };
        /**
         * ScheduleDetail
         * @description A recurring schedule with its task and next runs.
         */
        ScheduleDetail: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description The `sub` of the creator's token. The tasks have the same owner.
             * @example alice
             */
            owner: string;
            /** @example resize */
            name: string;
            description: string;
            /** @example 30 2 * * * */
            cron: string;
            /** @example Europe/Berlin */
            timeZone: string;
            /** @enum {unknown} */
            missed: "catch_up" | "skip";
            catchUp: number;
            paused: boolean;
            /** @description Why it is paused; null unless it is. */
            pauseReason: string | null;
            /**
             * @description The next run; null if it is paused or never runs again.
             * @example 1767225600000
             */
            nextAt: number | null;
            lastFired: components["schemas"]["FiredRuns"] | null;
            lastFailure: components["schemas"]["FailedRuns"] | null;
            /** @example 01KDW1Z6P00000000000000000~alice */
            lastTriggeredTaskId: string | null;
            counts: components["schemas"]["ScheduleCounts"];
            /** @example 1767225600000 */
            createdAt: number;
            /**
             * @description When it last ran, failed or changed.
             * @example 1767225600000
             */
            updatedAt: number;
            /** @description As it was created; without its `payload` if that is withheld. */
            task: unknown;
            /** @description Why the payload is missing in `task`: the caller may not read it. Else missing. */
            withheld?: string;
            /** @description The next five runs; none while it is paused. */
            nextRuns: number[];
            /** @description Why a run that is due waits: the store is full, or the owner over the quota of stored bytes. Null: none waits. */
            heldReason: string | null;
        };
        /**
         * SchedulePage
         * @description Schedules by id: newest first, except those made with an Idempotency-Key, whose ids are not by time.
         */
        SchedulePage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            schedules: components["schemas"]["ScheduleSummary"][];
        };
        /**
         * SchedulePreview
         * @description When a schedule would run.
         */
        SchedulePreview: {
            /** @description The expression in English. */
            words: string;
            /** @description The next five runs, fewer if there are fewer in fifty years. */
            nextRuns: number[];
            /** @description The same in the time zone, ISO 8601 with its offset. */
            localTimes: string[];
            /** @description What happens where clocks change within 400 days, if that concerns the expression. */
            warnings: string[];
        };
        /**
         * ScheduleRun
         * @description A run started by hand.
         */
        ScheduleRun: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
            success: boolean;
        };
        /**
         * ScheduleRunPage
         * @description Runs of a schedule, the last one first.
         */
        ScheduleRunPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            runs: components["schemas"]["PastScheduleRun"][];
        };
        /**
         * ScheduleSummary
         * @description A recurring schedule.
         */
        ScheduleSummary: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description The `sub` of the creator's token. The tasks have the same owner.
             * @example alice
             */
            owner: string;
            /** @example resize */
            name: string;
            description: string;
            /** @example 30 2 * * * */
            cron: string;
            /** @example Europe/Berlin */
            timeZone: string;
            /** @enum {unknown} */
            missed: "catch_up" | "skip";
            catchUp: number;
            paused: boolean;
            /** @description Why it is paused; null unless it is. */
            pauseReason: string | null;
            /**
             * @description The next run; null if it is paused or never runs again.
             * @example 1767225600000
             */
            nextAt: number | null;
            lastFired: components["schemas"]["FiredRuns"] | null;
            lastFailure: components["schemas"]["FailedRuns"] | null;
            /** @example 01KDW1Z6P00000000000000000~alice */
            lastTriggeredTaskId: string | null;
            counts: components["schemas"]["ScheduleCounts"];
            /** @example 1767225600000 */
            createdAt: number;
            /**
             * @description When it last ran, failed or changed.
             * @example 1767225600000
             */
            updatedAt: number;
        };
        /**
         * ScheduledRun
         * @description A run of a schedule.
         */
        ScheduledRun: {
            /** @example 1767225600000 */
            dueAt: number;
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
        };
        /**
         * SchemaFrom
         * @description A server whose model says what its input is.
         */
        SchemaFrom: {
            /** @description A registered server of the dialect `cog`, `oip` or `bare`. */
            server: string;
        };
        /**
         * ServerPage
         * @description Servers, by id.
         */
        ServerPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            servers: components["schemas"]["ServerSummary"][];
        };
        /**
         * ServerPatch
         * @description The settings of a server to change; others stay. Null removes a setting.
         */
        ServerPatch: {
            /** @example resize */
            name?: string;
            /** @example example */
            provider?: string;
            /**
             * @description `pull` removes its endpoints, `push` needs them.
             * @enum {unknown}
             */
            mode?: "pull" | "push";
            endpoints?: components["schemas"]["EndpointsChange"];
            async?: boolean;
            callback?: boolean;
            /**
             * @description Replaces the list.
             * @example [
             *       "resize"
             *     ]
             */
            types?: string[];
            /** @example 4 */
            maxConcurrent?: number;
            weight?: number;
            /** @description Null: none. */
            apiKey?: string | null;
            /** @description Null: `Authorization`, as a bearer token. */
            authHeader?: string | null;
            /**
             * @description Replaces all labels.
             * @example {
             *       "gpu": "a100"
             *     }
             */
            labels?: {
                [key: string]: string;
            };
            /** @description Null: it takes work whenever it has a free slot. */
            overflow?: components["schemas"]["OverflowBody"] | null;
            /** @description Null: 429 and 503. */
            busyStatus?: number[] | null;
            healthAuth?: boolean;
            /** @description Null: any 2xx. */
            healthExpect?: components["schemas"]["ExpectBody"] | null;
            /** @description Seconds; null: never. */
            removeAfter?: number | null;
            /** @description Null: that of the task's type, else `taskstream`. */
            dialect?: ("auto" | "bare" | "cog" | "oip" | "openai" | "taskstream") | null;
            /** @description Null: `endpoints.predict` names it. */
            model?: string | null;
            /** @description Replaces all of it. Null: the payload is the body of the request, and the answer the result. */
            exchange?: components["schemas"]["ExchangeBody"] | null;
            /** @description Null: it is not chosen by model. */
            models?: "discover" | string[] | null;
        };
        /**
         * ServerSummary
         * @description The present state of a server. Times are ISO 8601, UTC.
         */
        ServerSummary: {
            /** @example gpu-1 */
            id: string;
            /** @example resize */
            name: string;
            /** @example example */
            provider: string;
            /**
             * @description `pull`: its pullers ask for tasks.
             * @enum {unknown}
             */
            mode: "pull" | "push";
            /**
             * @description Null for a pulled server.
             * @example {
             *       "predict": "https://gpu1.example.org/predict",
             *       "health": "https://gpu1.example.org/health"
             *     }
             */
            endpoints: {
                [key: string]: string | null;
            };
            async: boolean;
            callback: boolean;
            /**
             * @example [
             *       "resize"
             *     ]
             */
            types: string[];
            /** @example 4 */
            maxConcurrent: number;
            weight: number;
            /**
             * @example {
             *       "gpu": "a100"
             *     }
             */
            labels: {
                [key: string]: string;
            };
            overflow: components["schemas"]["OverflowBody"] | null;
            /** @description Statuses by which it says that it is busy. */
            busyStatus: number[];
            /** @description True if an API key is stored; the key itself is never returned. */
            hasApiKey: boolean;
            /** @description Header that carries the API key; null: `Authorization`, as a bearer token. */
            authHeader: string | null;
            /** @description True: the health check carries the API key. */
            healthAuth: boolean;
            /** @description What a healthy answer has; null: any 2xx. */
            healthExpect: components["schemas"]["ExpectBody"] | null;
            /** @description Seconds offline after which it is removed; null: never. Missing: as TASKSTREAM_SERVER_REMOVE_AFTER says. */
            removeAfter?: number | null;
            /** @description Wire format it speaks, as registered; null: that of the task's type, else `taskstream`. */
            dialect: string | null;
            /** @description With `auto`: what it was found to speak; null: not known yet, so it is offline. */
            dialectDetected: components["schemas"]["DetectedInfo"] | null;
            /** @description Its model there, for the dialect `oip`; null: `endpoints.predict` names it. */
            model: string | null;
            /** @description What is sent to it, and how its answers are read; null: as its dialect does. */
            exchange: components["schemas"]["ExchangeBody"] | null;
            /** @description The preset it was registered with; null: none, or `exchange` was changed since. */
            preset: string | null;
            /** @description Models by which it is chosen, as registered; null: it is not. */
            models: "discover" | string[] | null;
            /** @description Those it serves now; null: it is not chosen by model. */
            servedModels: string[] | null;
            /** @enum {unknown} */
            status: "offline" | "online";
            /** @description Why it has this status. */
            statusReason: string;
            /**
             * @description Since when it has this status for this reason.
             * @example 2026-01-01T00:00:00.000Z
             */
            statusSince: string;
            /**
             * @description Since when it is offline, for whatever reason; null: it is online.
             * @example 2026-01-01T00:00:00.000Z
             */
            offlineSince: string | null;
            maintenance: boolean;
            maintenanceReason: string | null;
            /** @example 2026-01-01T00:00:00.000Z */
            maintenanceSince: string | null;
            /**
             * @description Circuit breaker. `open`: no tasks until `circuitOpenUntil`, or only a trial of another owner than the one whose
             *     tasks failed; `half-open`: one task on trial.
             * @enum {unknown}
             */
            circuit: "closed" | "half-open" | "open";
            /** @example 2026-01-01T00:00:00.000Z */
            circuitOpenUntil: string | null;
            /** @description Why it opened; null: it is closed. */
            circuitReason: string | null;
            /** @description The only owner whose tasks failed, while `open`; null: there are several, or no task can be the cause. */
            circuitOwner: string | null;
            /** @example 2026-01-01T00:00:00.000Z */
            registeredAt: string;
            /**
             * @description The last heartbeat, successful health check or successful task.
             * @example 2026-01-01T00:00:00.000Z
             */
            lastHeartbeat: string | null;
            /**
             * @description Of the last successful health check.
             * @example 12.5
             */
            latencyMs: number | null;
            /**
             * @description Since when it has answered that it is busy, without taking a task; null: it takes tasks.
             * @example 2026-01-01T00:00:00.000Z
             */
            busySince: string | null;
            /**
             * @description When a busy server gets its next task, at the earliest.
             * @example 2026-01-01T00:00:00.000Z
             */
            nextTryAt: string | null;
            /** @description Tasks it is sent at a time now: `maxConcurrent`, or fewer since it said that it was busy. */
            currentLimit: number;
            /** @description Attempts of the service that run on it now. */
            activeTasks: number;
            /** @description Requests of its pullers that are open and wait for a task now; null: it is pushed, or no worker answers. */
            openAsks: number | null;
            /** @description From the server's last heartbeat. It may count other work, too. */
            reportedActiveTasks: number | null;
            /**
             * @description From the server's last heartbeat.
             * @example {
             *       "gpu": 0.8
             *     }
             */
            metrics: Record<string, never> | null;
            /** @description Null: it is registered. Only the list of removed servers has others. */
            removed: components["schemas"]["RemovedInfo"] | null;
        };
        /**
         * ServerVerdict
         * @description Whether a server could run the task.
         */
        ServerVerdict: {
            /** @example gpu-1 */
            serverId: string;
            /** @enum {unknown} */
            verdict: "able" | "at-limit" | "busy" | "circuit-half-open" | "circuit-open" | "label-missing" | "maintenance" | "model-missing" | "offline" | "other-types" | "removed" | "standby" | "unasked";
            /** @description The verdict in words, with details. */
            text: string;
            /**
             * @description When the verdict ends without action, or a busy server is tried again; null if unknown.
             * @example 1767225600000
             */
            until: number | null;
            /**
             * @description Since when it has said that it is busy, is offline for this reason, or was removed; null: none of these.
             * @example 1767225600000
             */
            since: number | null;
        };
        /**
         * ShortServer
         * @description A server, as `service` tokens see it.
         */
        ShortServer: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @enum {unknown} */
            status: "offline" | "online";
            async: boolean;
            callback: boolean;
            /**
             * @example [
             *       "resize"
             *     ]
             */
            types: string[];
            /** @example 4 */
            maxConcurrent: number;
            /**
             * @description The last heartbeat, successful health check or successful task.
             * @example 2026-01-01T00:00:00.000Z
             */
            lastHeartbeat: string | null;
        };
        /** @description A result in an event. */
        StoredResult: {
            /** @description Any JSON: a TaskResult, or the data of a progress report. */
            inline: unknown;
            size_bytes?: number;
            /** @description A link to the file that it is. */
            file?: unknown;
            /** @description Links to the files in it. */
            files?: unknown;
        };
        /** @description `data` of one server-sent event. */
        StreamMessage: components["schemas"]["PushedState"] | components["schemas"]["PushedEvent"] | components["schemas"]["StreamNotice"];
        /** @description About the stream itself. Further fields depend on the type. */
        StreamNotice: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "reached" | "gap" | "reset" | "more" | "batch";
        };
        /**
         * StreamParts
         * @description Parts of the answer that a server streams, in order, each as it came: the text of a server-sent event.
         */
        StreamParts: {
            first: number;
            middles: string[];
            head?: string;
            tail?: string;
        };
        /**
         * StreamToken
         * @description A token for the address of a stream: `?token=…`.
         */
        StreamToken: {
            /** @example c2VhbGVk */
            token: string;
            /**
             * @description Milliseconds since the epoch: the token opens streams until then.
             * @example 1767225600000
             */
            expiresAt: number;
            /**
             * @description Milliseconds since the epoch: when open streams end, because the token that asked for this one expires.
             * @example 1767225600000
             */
            streamsEndAt: number;
        };
        /**
         * StreamedPartsBody
         * @description How to read a streamed answer: server-sent events, or JSON on lines. The data of an event may be text.
         *
         *         The result is the last part that is an object, with the whole output in the place of its own.
         */
        StreamedPartsBody: {
            /** @description The part that ends the stream well. A stream that ends without it is a failed attempt. */
            done: number[] | string | components["schemas"]["AnswerTestBody"];
            /** @description Path, of names alone, to the text that a part adds to the output. */
            output?: string | null;
            /** @description Path to the progress. */
            progress?: string | null;
            /** @description The progress of a task that is done, such as 1 for fractions. Default: 100. */
            progressMax?: number;
            /**
             * @description Path to a text that is shown with the progress.
             * @example frame 4 of 10
             */
            message?: string | null;
            /** @description True: a part is `{"event": NAME, "data": …}`, so that conditions can name events. Default: false. */
            events?: boolean;
        };
        /**
         * Submission
         * @description The full form: a payload and options.
         */
        Submission: {
            /** @description The task's input: any JSON that its type allows. */
            payload: unknown;
            /**
             * @description Default: "default".
             * @example resize
             */
            type?: string;
            /** @description By default the priority of the type. */
            priority?: ("high" | "low" | "normal") | null;
            /**
             * @description Seconds one attempt may take.
             * @example 120
             */
            timeout?: number | null;
            /**
             * @description Attempts in all, including the first.
             * @example 3
             */
            attempts?: number | null;
            /**
             * @description The earliest start. Milliseconds since the epoch or ISO 8601, like every instant here.
             * @example 1767225600000
             */
            runAt?: number | string | null;
            /** @description Seconds from now to the earliest start. Use this or `runAt`. */
            delay?: number | null;
            /**
             * @description The latest start. A task that still waits then fails.
             * @example 1767225600000
             */
            expiresAt?: number | string | null;
            /** @description The latest end. A task that has not ended by then fails, wherever it is. */
            deadline?: number | string | null;
            /**
             * @description Ids of tasks of the same owner that must end first. The server of this task receives their results.
             * @example []
             */
            dependsOn?: string[];
            /**
             * @description What happens to this task when a task it depends on does not succeed. Default: "fail".
             * @enum {unknown}
             */
            onParentFailure?: "fail" | "run" | "skip";
            /** @description Tasks of the same owner, type and key share one concurrency limit, which the type sets. */
            concurrencyKey?: string;
            /** @description Labels of the servers that should run the task if one is free. */
            prefer?: {
                [key: string]: string;
            };
            /** @description Labels a server must have to run the task. */
            require?: {
                [key: string]: string;
            };
        };
        /**
         * TakeAnswer
         * @description The attempts for a puller.
         */
        TakeAnswer: {
            /** @description Empty: ask again at once. */
            attempts: components["schemas"]["PulledTask"][];
            /** @description Why there is none; null: no task waits that the server may run now. */
            reason: string | null;
        };
        /**
         * TakeBody
         * @description What a puller asks for.
         */
        TakeBody: {
            /** @description The server that the puller works for, registered with `mode: pull`. */
            server: string;
            /**
             * @description Only tasks of these types; empty: of all that the server serves.
             * @example [
             *       "resize"
             *     ]
             */
            types?: string[];
            /**
             * @description The puller has only these of the server's labels, so it gets no task that requires another; null: all.
             * @example {
             *       "gpu": "a100"
             *     }
             */
            labels?: {
                [key: string]: string;
            } | null;
            /** @description Attempts, at most. Default: 1. */
            max?: number;
            /** @description Seconds to wait for the first of them. Default: 30.0. */
            wait?: number;
        };
        /**
         * TaskAnswer
         * @description A task, with its id again where older clients look for it.
         */
        TaskAnswer: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
            taskDetails: components["schemas"]["TaskDetails"];
        };
        /** TaskCancelled */
        TaskCancelled: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskCancelled";
            attempt?: number;
            server_id?: string;
            reason?: string;
        };
        /**
         * TaskCount
         * @description A number of tasks.
         */
        TaskCount: {
            /** @description Exact up to 10,000, unless `capped`. */
            count: number;
            /** @description True: there are, or may be, more. */
            capped: boolean;
        };
        /**
         * TaskCounts
         * @description How many tasks match a filter.
         */
        TaskCounts: {
            /** @description Exact up to 10,000, unless `capped`. */
            count: number;
            /** @description True: there are, or may be, more. */
            capped: boolean;
            /** @description By value of what `by` names, the largest number first; null without it. */
            by: components["schemas"]["TaskGroup"][] | null;
            /** @description True if there are more values: at most 200 are counted. */
            more: boolean;
            /** @description Sequence of the log that the counts reflect. */
            asOf: number;
        };
        /**
         * TaskDeleted
         * @description The owner deleted an ended task: it is in no list any more. Its history stays.
         */
        TaskDeleted: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskDeleted";
        };
        /**
         * TaskDetails
         * @description A task with its payload and its result.
         */
        TaskDetails: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @enum {unknown} */
            status: "CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING";
            /** @example resize */
            type: string;
            /** @enum {unknown} */
            priority: "high" | "low" | "normal";
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            owner: string;
            /**
             * @description The server that runs it, or ran it last; null before the first attempt.
             * @example gpu-1
             */
            serverId: string | null;
            /**
             * @description Why the task or its last attempt failed; null if nothing failed.
             * @example the server answered 500
             */
            error: string | null;
            /**
             * @description Percent, from the last report of the server.
             * @example 40
             */
            progress: number | null;
            /**
             * @description From the last report of the server.
             * @example frame 4 of 10
             */
            message: string | null;
            /** @description Number of the last attempt, from 1; 0 before the first. */
            attempt: number;
            /**
             * @description Attempts it gets in all.
             * @example 3
             */
            attempts: number;
            /**
             * @description Milliseconds since the epoch, as are all times of a task.
             * @example 1767225600000
             */
            createdAt: number;
            /** @example 1767225600000 */
            updatedAt: number;
            /**
             * @description When the first attempt began.
             * @example 1767225600000
             */
            startedAt: number | null;
            /** @example 1767225600000 */
            endedAt: number | null;
            /**
             * @description When the next attempt is due; null unless the task waits for one.
             * @example 1767225600000
             */
            nextAttemptAt: number | null;
            /**
             * @description Where a server sends updates (PUT).
             * @example https://tasks.example.org/api/task/01KDW1Z6P00000000000000000~alice
             */
            callbackUrl: string;
            /** @description True while the task must wait before it is queued. `GET /api/task/{id}/why` says for what. */
            held: boolean;
            /** @description The kind of failure in `error`; null if nothing failed. */
            failureKind: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost") | null;
            /**
             * @description The earliest start.
             * @example 1767225600000
             */
            runAt: number | null;
            /**
             * @description The latest start.
             * @example 1767225600000
             */
            expiresAt: number | null;
            /** @description The latest end. A task that has not ended by then fails. */
            deadline: number | null;
            concurrencyKey: string | null;
            /**
             * @description The batch it was submitted with.
             * @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice
             */
            batchId: string | null;
            /** @description The recurring schedule that submitted it. */
            scheduleId: string | null;
            /**
             * @description What became of the attempt that ran when the task was cancelled: the server `confirmed` that it stopped; it was
             *     told so (`requested`); it did not say so (`unconfirmed`); it cannot be told (`impossible`). Null: none ran, or it is
             *     not known, or not yet.
             */
            cancelOutcome: ("confirmed" | "impossible" | "requested" | "unconfirmed") | null;
            /**
             * @description The payload as submitted.
             * @example {
             *       "url": "https://example.org/a.png",
             *       "width": 640
             *     }
             */
            request: unknown;
            /**
             * @description Ids of the tasks that must end first.
             * @example []
             */
            dependsOn: string[];
            /**
             * @description What happens to this task when one of them does not succeed.
             * @enum {unknown}
             */
            onParentFailure: "fail" | "run" | "skip";
            /** @description Labels of the servers that should run it if one is free. */
            prefer: {
                [key: string]: string;
            };
            /** @description Labels a server must have to run it. */
            require: {
                [key: string]: string;
            };
            /** @description A TaskResult, or null. */
            result: components["schemas"]["TaskResult"] | null;
            /** @description Why `request` and `result` are null although the task has them: the caller may not read them. Else missing. */
            withheld?: string;
        };
        TaskEvent: components["schemas"]["TaskSubmitted"] | components["schemas"]["TaskHeld"] | components["schemas"]["TaskQueued"] | components["schemas"]["AttemptStarted"] | components["schemas"]["AttemptAccepted"] | components["schemas"]["ProgressReported"] | components["schemas"]["AttemptFailed"] | components["schemas"]["AttemptReturned"] | components["schemas"]["TaskSucceeded"] | components["schemas"]["TaskFailed"] | components["schemas"]["TaskCancelled"] | components["schemas"]["CancelReported"] | components["schemas"]["TaskDeleted"];
        /**
         * TaskFailed
         * @description The task failed: refused or failed by the backend, late, or out of attempts.
         */
        TaskFailed: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskFailed";
            attempt?: number;
            server_id?: string;
            /** @enum {unknown} */
            kind?: "bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost";
            error?: string;
            result?: components["schemas"]["StoredResult"] | components["schemas"]["LinkedResult"] | null;
            update_digest?: string;
            notes?: string[];
            answer?: components["schemas"]["ErrorAnswer"] | null;
        };
        /**
         * TaskGroup
         * @description The tasks with one value.
         */
        TaskGroup: {
            /** @description Exact up to 10,000, unless `capped`. */
            count: number;
            /** @description True: there are, or may be, more. */
            capped: boolean;
            value: string;
        };
        /**
         * TaskHeld
         * @description The task was taken out of its queue until the scheduler releases it.
         *
         *         `renewed`: it was retried after its end, with a new budget of attempts, and waits for its active parents.
         */
        TaskHeld: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskHeld";
            reason?: string;
            renewed?: boolean;
        };
        /**
         * TaskOutline
         * @description A task without its payload and its result: their sizes.
         */
        TaskOutline: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @enum {unknown} */
            status: "CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING";
            /** @example resize */
            type: string;
            /** @enum {unknown} */
            priority: "high" | "low" | "normal";
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            owner: string;
            /**
             * @description The server that runs it, or ran it last; null before the first attempt.
             * @example gpu-1
             */
            serverId: string | null;
            /**
             * @description Why the task or its last attempt failed; null if nothing failed.
             * @example the server answered 500
             */
            error: string | null;
            /**
             * @description Percent, from the last report of the server.
             * @example 40
             */
            progress: number | null;
            /**
             * @description From the last report of the server.
             * @example frame 4 of 10
             */
            message: string | null;
            /** @description Number of the last attempt, from 1; 0 before the first. */
            attempt: number;
            /**
             * @description Attempts it gets in all.
             * @example 3
             */
            attempts: number;
            /**
             * @description Milliseconds since the epoch, as are all times of a task.
             * @example 1767225600000
             */
            createdAt: number;
            /** @example 1767225600000 */
            updatedAt: number;
            /**
             * @description When the first attempt began.
             * @example 1767225600000
             */
            startedAt: number | null;
            /** @example 1767225600000 */
            endedAt: number | null;
            /**
             * @description When the next attempt is due; null unless the task waits for one.
             * @example 1767225600000
             */
            nextAttemptAt: number | null;
            /**
             * @description Where a server sends updates (PUT).
             * @example https://tasks.example.org/api/task/01KDW1Z6P00000000000000000~alice
             */
            callbackUrl: string;
            /** @description True while the task must wait before it is queued. `GET /api/task/{id}/why` says for what. */
            held: boolean;
            /** @description The kind of failure in `error`; null if nothing failed. */
            failureKind: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost") | null;
            /**
             * @description The earliest start.
             * @example 1767225600000
             */
            runAt: number | null;
            /**
             * @description The latest start.
             * @example 1767225600000
             */
            expiresAt: number | null;
            /** @description The latest end. A task that has not ended by then fails. */
            deadline: number | null;
            concurrencyKey: string | null;
            /**
             * @description The batch it was submitted with.
             * @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice
             */
            batchId: string | null;
            /** @description The recurring schedule that submitted it. */
            scheduleId: string | null;
            /**
             * @description What became of the attempt that ran when the task was cancelled: the server `confirmed` that it stopped; it was
             *     told so (`requested`); it did not say so (`unconfirmed`); it cannot be told (`impossible`). Null: none ran, or it is
             *     not known, or not yet.
             */
            cancelOutcome: ("confirmed" | "impossible" | "requested" | "unconfirmed") | null;
            /** @description Size of the payload. `GET /api/task/{id}/payload` returns it. */
            requestBytes: number;
            /** @description Size of the result; while the task runs, of the data of its last report. Null: there is none. */
            resultBytes: number | null;
            /**
             * @description Ids of the tasks that must end first.
             * @example []
             */
            dependsOn: string[];
            /**
             * @description What happens to this task when one of them does not succeed.
             * @enum {unknown}
             */
            onParentFailure: "fail" | "run" | "skip";
            /** @description Labels of the servers that should run it if one is free. */
            prefer: {
                [key: string]: string;
            };
            /** @description Labels a server must have to run it. */
            require: {
                [key: string]: string;
            };
        };
        /**
         * TaskOutlineAnswer
         * @description A task without its payload and its result.
         */
        TaskOutlineAnswer: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
            taskDetails: components["schemas"]["TaskOutline"];
        };
        /**
         * TaskPage
         * @description Tasks, newest first.
         */
        TaskPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            tasks: components["schemas"]["TaskSummary"][];
            /** @description Sequence of the log that the page reflects. */
            asOf: number;
            /** @description With `count`: all tasks that match. */
            total: components["schemas"]["TaskCount"] | null;
        };
        /**
         * TaskQueued
         * @description The task was queued; `renewed`: after its end, with a new budget of attempts.
         */
        TaskQueued: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskQueued";
            pool?: string;
            /** @enum {unknown} */
            priority?: "high" | "low" | "normal";
            reason?: string;
            renewed?: boolean;
            granted?: boolean;
            submission?: number;
            bulk?: boolean;
        };
        /** @description The outcome of a task; while it runs, its last report. */
        TaskResult: {
            /** @description Any JSON; null if there is none. */
            data: unknown;
            /** @description What is known of the attempt. Servers may add fields. */
            metadata: {
                /** @enum {string} */
                status: "WAITING" | "PROCESSING" | "FINISHED" | "FAILED";
                server_id?: string | null;
                /** @description Percent. */
                progress?: number | null;
                message?: string | null;
                /** @description Milliseconds. */
                processing_time?: number | null;
                /** @description Milliseconds. */
                model_time?: number | null;
                /** @description Milliseconds. */
                queue_time?: number | null;
                /** @description Any JSON. */
                custom_data?: unknown;
            };
            task_id?: string;
            backend_task_id?: string | null;
        };
        /**
         * TaskSubmitted
         * @description The task was accepted. It is queued as well, unless it is `held`.
         */
        TaskSubmitted: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskSubmitted";
            owner?: string;
            task_type?: string;
            payload?: unknown;
            pool?: string;
            /** @enum {unknown} */
            priority?: "high" | "low" | "normal";
            policy?: components["schemas"]["RetryPolicy"];
            fingerprint?: string;
            project?: string;
            model?: components["schemas"]["ModelChoice"] | null;
            key_id?: string;
            held?: boolean;
            bulk?: boolean;
            plan?: components["schemas"]["Plan"] | null;
            batch?: string;
            batch_size?: number;
            schedule?: string;
            trace?: string;
            trace_state?: string;
            files?: string[];
            indexed?: {
                [key: string]: string;
            };
            facade?: components["schemas"]["FacadeRequest"] | null;
        };
        /** TaskSucceeded */
        TaskSucceeded: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            type: "TaskSucceeded";
            attempt?: number;
            server_id?: string;
            result?: components["schemas"]["StoredResult"] | components["schemas"]["LinkedResult"] | null;
            update_digest?: string;
            notes?: string[];
        };
        /**
         * TaskSummary
         * @description A task in a list.
         */
        TaskSummary: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /** @enum {unknown} */
            status: "CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING";
            /** @example resize */
            type: string;
            /** @enum {unknown} */
            priority: "high" | "low" | "normal";
            /**
             * @description The `sub` of the submitter's token.
             * @example alice
             */
            owner: string;
            /**
             * @description The server that runs it, or ran it last; null before the first attempt.
             * @example gpu-1
             */
            serverId: string | null;
            /**
             * @description Why the task or its last attempt failed; null if nothing failed.
             * @example the server answered 500
             */
            error: string | null;
            /**
             * @description Percent, from the last report of the server.
             * @example 40
             */
            progress: number | null;
            /**
             * @description From the last report of the server.
             * @example frame 4 of 10
             */
            message: string | null;
            /** @description Number of the last attempt, from 1; 0 before the first. */
            attempt: number;
            /**
             * @description Attempts it gets in all.
             * @example 3
             */
            attempts: number;
            /**
             * @description Milliseconds since the epoch, as are all times of a task.
             * @example 1767225600000
             */
            createdAt: number;
            /** @example 1767225600000 */
            updatedAt: number;
            /**
             * @description When the first attempt began.
             * @example 1767225600000
             */
            startedAt: number | null;
            /** @example 1767225600000 */
            endedAt: number | null;
            /**
             * @description When the next attempt is due; null unless the task waits for one.
             * @example 1767225600000
             */
            nextAttemptAt: number | null;
            /**
             * @description Where a server sends updates (PUT).
             * @example https://tasks.example.org/api/task/01KDW1Z6P00000000000000000~alice
             */
            callbackUrl: string;
            /** @description True while the task must wait before it is queued. `GET /api/task/{id}/why` says for what. */
            held: boolean;
            /** @description The kind of failure in `error`; null if nothing failed. */
            failureKind: ("bad_answer" | "busy" | "deadline" | "error" | "expired" | "failed" | "parent_failed" | "rejected" | "timeout" | "unreachable" | "worker_lost") | null;
            /**
             * @description The earliest start.
             * @example 1767225600000
             */
            runAt: number | null;
            /**
             * @description The latest start.
             * @example 1767225600000
             */
            expiresAt: number | null;
            /** @description The latest end. A task that has not ended by then fails. */
            deadline: number | null;
            concurrencyKey: string | null;
            /**
             * @description The batch it was submitted with.
             * @example 01KDW1Z6P0ABCDEFGHJKMNPQ00~alice
             */
            batchId: string | null;
            /** @description The recurring schedule that submitted it. */
            scheduleId: string | null;
            /**
             * @description What became of the attempt that ran when the task was cancelled: the server `confirmed` that it stopped; it was
             *     told so (`requested`); it did not say so (`unconfirmed`); it cannot be told (`impossible`). Null: none ran, or it is
             *     not known, or not yet.
             */
            cancelOutcome: ("confirmed" | "impossible" | "requested" | "unconfirmed") | null;
        };
        /**
         * TypeBody
         * @description Settings of a task type; absent ones come from the service's settings.
         */
        TypeBody: {
            /**
             * @description JSON Schema that every payload of the type must satisfy.
             * @example {
             *       "type": "object",
             *       "required": [
             *         "url",
             *         "width"
             *       ]
             *     }
             */
            schema?: Record<string, never> | null;
            /** @description Instead of `schema`: the schema is asked of a server now, and stored. Later changes there are not followed. */
            schemaFrom?: components["schemas"]["SchemaFrom"] | null;
            /**
             * @description Largest number of attempts, the first included.
             * @example 3
             */
            attempts?: number | null;
            /**
             * @description Seconds. Upper bound of the first backoff; it doubles with each failure.
             * @example 1
             */
            backoffBase?: number | null;
            /**
             * @description Seconds. Longest backoff.
             * @example 30
             */
            backoffCap?: number | null;
            /**
             * @description Seconds an attempt may take. By default 300, and 3,600 on a server that reports by callback.
             * @example 120
             */
            timeout?: number | null;
            /**
             * @description Priority of tasks submitted without one. Default: "normal".
             * @enum {unknown}
             */
            priority?: "high" | "low" | "normal";
            /**
             * @description Queue of its tasks. Left out, it stays as it is; a new type gets one of its own, called like the type.
             * @example resize
             */
            pool?: string;
            description?: string;
            /**
             * @description Running tasks of the type, of all owners; null: no limit.
             * @example 20
             */
            concurrency?: number | null;
            /**
             * @description Average starts per second; null: no limit.
             * @example 5
             */
            perSecond?: number | null;
            /** @description Largest burst of starts; null: `perSecond`, at least 1. */
            burst?: number | null;
            /** @description Running tasks of the type with the same concurrency key. Default: 1. */
            keyConcurrency?: number;
            /**
             * @description What happens to a new task whose key is in use: it waits, replaces waiting tasks, or is refused (cancelled). Default: "wait".
             * @enum {unknown}
             */
            onConflict?: "refuse" | "replace" | "wait";
            /** @description Seconds a task may wait for servers that are all busy (default 3,600); then it fails. */
            busyFor?: number | null;
            /**
             * @description `json`: an answer of a server that is not JSON (text, a file, nothing) is a failed attempt. Default: "any".
             * @enum {unknown}
             */
            accepts?: "any" | "json";
            /**
             * @description Fields of the payload that lists can be filtered by: `$.order.customer` by `payload.order.customer=acme`.
             *     Of tasks submitted from now on; values that are text of up to 200 characters, numbers, true or false.
             */
            indexed?: string[];
            /**
             * @description Tasks of one session go to the same server if it has a free slot. A session is named by `user` in the payload, or
             *     is a conversation whose `messages` begin alike. Default: false.
             */
            sessionAffinity?: boolean;
            /** @description Wire format of its servers that are registered without one; null: `taskstream`. */
            dialect?: ("bare" | "cog" | "oip" | "openai" | "taskstream") | null;
            /**
             * @description Name under which clients of other services' APIs find the type: `acme/flux` for Replicate's, any id for OpenAI's.
             *     No other type may have it. Null: the type's own name.
             */
            model?: string | null;
        };
        /**
         * TypeDone
         * @description Done.
         */
        TypeDone: {
            /** @example resize */
            name: string;
            success: boolean;
        };
        /**
         * TypePage
         * @description Types, by name.
         */
        TypePage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            types: components["schemas"]["TypeSummary"][];
        };
        /**
         * TypeSummary
         * @description A type's settings; where it has none, those of the service. Durations are in seconds.
         */
        TypeSummary: {
            /** @example resize */
            name: string;
            /** @description False for `default` until an admin sets it. */
            defined: boolean;
            /**
             * @description JSON Schema of its payloads; null: any payload.
             * @example {
             *       "type": "object",
             *       "required": [
             *         "url",
             *         "width"
             *       ]
             *     }
             */
            schema: unknown;
            /** @description The server that its schema was taken from; null: an admin wrote it, or there is none. */
            schemaFrom: components["schemas"]["SchemaFrom"] | null;
            /** @example 3 */
            attempts: number;
            /** @example 1 */
            backoffBase: number;
            /** @example 30 */
            backoffCap: number;
            /** @example 120 */
            timeout: number;
            /** @enum {unknown} */
            priority: "high" | "low" | "normal";
            /**
             * @description Queue of its tasks.
             * @example resize
             */
            pool: string;
            description: string;
            /**
             * @description Running tasks of the type; null: no limit.
             * @example 20
             */
            concurrency: number | null;
            /**
             * @description Average starts per second; null: no limit.
             * @example 5
             */
            perSecond: number | null;
            /** @description Largest burst of starts; null: no limit. */
            burst: number | null;
            /** @description Running tasks with the same concurrency key. */
            keyConcurrency: number;
            /**
             * @description What happens to a new task whose key is in use.
             * @enum {unknown}
             */
            onConflict: "refuse" | "replace" | "wait";
            /** @description Seconds a task may wait for servers that are all busy. */
            busyFor: number;
            /**
             * @description Accepted answers of its servers: JSON only, or also text, a file, or nothing.
             * @enum {unknown}
             */
            accepts: "any" | "json";
            /** @description Fields of the payload that lists can be filtered by. */
            indexed: string[];
            /** @description True: tasks of one session go to the same server if it has a free slot. */
            sessionAffinity: boolean;
            /** @description Wire format of its servers that are registered without one. */
            dialect: string;
            /** @description Name under which clients of other services' APIs find it; null: its own name. */
            model: string | null;
            /** @description Settings as an admin set them, without the schema: what is missing comes from the service. Null: not defined. */
            own: components["schemas"]["TypeBody"] | null;
            /** @description Null: not paused. */
            pause: components["schemas"]["PauseInfo"] | null;
            /** @description With `use=true`; else missing. */
            use?: components["schemas"]["TypeUse"];
        };
        /**
         * TypeUse
         * @description The tasks of a type now.
         */
        TypeUse: {
            running: number;
            waiting: number;
            /** @description Those of `waiting` that are in no queue. */
            held: number;
            /** @description Of attempts, on average over about the last minute. */
            startsPerMinute: number;
            /** @description Tasks that count towards `concurrency`: they run or were granted their start. Null: no scheduler answers. */
            counted: number | null;
            /** @description Tasks that wait for the type's limits first. Null: no scheduler answers. */
            heldByLimit: number | null;
            /** @description The waiting tasks by what each waits for first, as in a pool. Null: no scheduler answers. */
            waitingFor: {
                [key: string]: number;
            } | null;
        };
        /**
         * VerdictCount
         * @description How many servers have the same verdict.
         */
        VerdictCount: {
            /** @enum {unknown} */
            verdict: "able" | "at-limit" | "busy" | "circuit-half-open" | "circuit-open" | "label-missing" | "maintenance" | "model-missing" | "offline" | "other-types" | "removed" | "standby" | "unasked";
            text: string;
            count: number;
        };
        /**
         * WebhookBody
         * @description A webhook to register.
         */
        WebhookBody: {
            /**
             * @description http or https URL that receives deliveries.
             * @example https://example.org/hooks/tasks
             */
            url: string;
            /**
             * @description Names such as `task.succeeded`, and `all`, `ended` (the default), `attempts`, `progress` for several.
             * @example [
             *       "task.succeeded",
             *       "task.failed"
             *     ]
             */
            events?: string[];
            /**
             * @description Only events of tasks of these types; empty: all types.
             * @example [
             *       "resize"
             *     ]
             */
            types?: string[];
            /**
             * @description A task of yours: only its events are sent, past ones included.
             * @example 01KDW1Z6P00000000000000000~alice
             */
            taskId?: string | null;
            description?: string;
            /** @description False: nothing is sent; events of that time are never sent. Default: true. */
            active?: boolean;
        };
        /**
         * WebhookChange
         * @description Changes to a webhook; absent fields stay.
         */
        WebhookChange: {
            /** @example https://example.org/hooks/tasks */
            url?: string;
            /**
             * @example [
             *       "task.succeeded",
             *       "task.failed"
             *     ]
             */
            events?: string[];
            /**
             * @example [
             *       "resize"
             *     ]
             */
            types?: string[];
            description?: string;
            /** @description True also enables a webhook that was disabled by a 410. */
            active?: boolean;
        };
        /**
         * WebhookCounts
         * @description How many deliveries of a webhook are kept, by status: each for a week.
         */
        WebhookCounts: {
            /** @description At most 1,000; further events wait in the log. */
            waiting: number;
            delivered: number;
            /** @description Given up: no more attempts. */
            failed: number;
            /** @description True if there are too many records to count: then more may wait. */
            capped: boolean;
        };
        /** @description A delivery (Standard Webhooks). */
        WebhookMessage: {
            type: string;
            /** Format: date-time */
            timestamp: string;
            data: components["schemas"]["PushedEvent"];
        };
        /**
         * WebhookPage
         * @description Webhooks, newest first.
         */
        WebhookPage: {
            /** @description Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one. */
            nextCursor: string | null;
            webhooks: components["schemas"]["WebhookSummary"][];
        };
        /**
         * WebhookSecret
         * @description A webhook and its secret, which is not returned again.
         */
        WebhookSecret: {
            webhook: components["schemas"]["WebhookSummary"];
            /**
             * @description `whsec_` and base64: the key that signs deliveries.
             * @example whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
             */
            secret: string;
            /**
             * @description Until when deliveries are also signed with the previous secret; null: there is none.
             * @example 1767225600000
             */
            previousUntil: number | null;
        };
        /**
         * WebhookSummary
         * @description A webhook. Its secret is returned only when it is made.
         */
        WebhookSummary: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            id: string;
            /**
             * @description The `sub` of the user who registered it.
             * @example alice
             */
            owner: string;
            /**
             * @description Empty: each message has a URL of its own, see `facade`.
             * @example https://example.org/hooks/tasks
             */
            url: string;
            /** @description `replicate`: it sends predictions of Replicate's API to the URLs that they were created with. Null: `url`. */
            facade: string | null;
            /**
             * @description Types of the events that are sent.
             * @example [
             *       "task.succeeded",
             *       "task.failed"
             *     ]
             */
            events: string[];
            /**
             * @example [
             *       "resize"
             *     ]
             */
            types: string[];
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string | null;
            description: string;
            active: boolean;
            /** @description Why it is not active; null: it is active. */
            disabledReason: string | null;
            /**
             * @description Nothing is sent until then: the receiver answered 429, or 503 with `Retry-After`. Null: not paused.
             * @example 1767225600000
             */
            pausedUntil: number | null;
            /** @example 1767225600000 */
            createdAt: number;
            /** @example 1767225600000 */
            updatedAt: number;
            /** @description Null in a list without `counts=true`, and in answers to changes. */
            counts: components["schemas"]["WebhookCounts"] | null;
            /** @description Age of the oldest message still to be sent; 0 if there is none. Null: not counted, not known, or not active. */
            lagSeconds: number | null;
        };
        /**
         * WhyAnswer
         * @description Why a task waits, runs or ended.
         */
        WhyAnswer: {
            /** @example 01KDW1Z6P00000000000000000~alice */
            taskId: string;
            /** @enum {unknown} */
            status: "CANCELLED" | "FAILED" | "FINISHED" | "PROCESSING" | "WAITING";
            /** @description True while the task must wait before it is queued. */
            held: boolean;
            /**
             * @description When it was held or queued, started or ended.
             * @example 1767225600000
             */
            since: number;
            /** @description One sentence. */
            summary: string;
            /** @description What it waits for, in order; later ones may be unknown yet. */
            holds: components["schemas"]["HoldInfo"][];
            /** @description Verdicts on the servers, counted; empty unless it waits. */
            verdicts: components["schemas"]["VerdictCount"][];
            /** @description The verdict on each server, by id, the first 200; null unless the caller is an admin or auditor. */
            servers: components["schemas"]["ServerVerdict"][] | null;
            running: components["schemas"]["RunningInfo"] | null;
            ended: components["schemas"]["EndedInfo"] | null;
            /** @description Number of the last attempt, from 1; 0 before the first. */
            attempt: number;
            /**
             * @description Attempts it gets in all.
             * @example 3
             */
            attempts: number;
            lastError: string | null;
            /**
             * @description Whether the scheduler, which knows the limits, answered. It is asked only about held tasks.
             * @enum {unknown}
             */
            keeper: "answered" | "not asked" | "silent";
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type $defs = Record<string, never>;
export interface operations {
    submitTask: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
                /** @description `wait=n`: wait up to n seconds, 60 at most, for the end of the task */
                Prefer?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["Submission"] | ({
                    attempts?: never;
                    concurrencyKey?: never;
                    deadline?: never;
                    delay?: never;
                    dependsOn?: never;
                    expiresAt?: never;
                    onParentFailure?: never;
                    payload?: never;
                    prefer?: never;
                    priority?: never;
                    require?: never;
                    runAt?: never;
                    timeout?: never;
                    type?: never;
                } & {
                    [key: string]: unknown;
                });
            };
        };
        responses: {
            /** @description The task: new, or as it is now if an earlier request with this Idempotency-Key made it */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskAnswer"];
                };
            };
        };
    };
    getTask: {
        parameters: {
            query?: {
                /** @description Longest wait in seconds for the end of the task */
                wait?: number;
                /** @description False: the sizes of bodies instead of the bodies */
                bodies?: boolean;
            };
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task as it is now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskAnswer"] | components["schemas"]["TaskOutlineAnswer"];
                };
            };
        };
    };
    cancelTask: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description The task, cancelled */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskAnswer"];
                };
            };
        };
    };
    retryTask: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description The task, waiting again */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskAnswer"];
                };
            };
        };
    };
    listTasks: {
        parameters: {
            query?: {
                /** @description One or more statuses, also comma-separated */
                status?: string[];
                /** @description One or more types, also comma-separated */
                type?: string[];
                /** @description One or more pools, also comma-separated */
                pool?: string[];
                /** @description Servers that run the task, or ran it last; empty: none has */
                server?: string[];
                /** @description One or more priorities, also comma-separated */
                priority?: string[];
                /** @description One or more kinds of failure, also comma-separated */
                kind?: string[];
                /** @description What waiting tasks wait for, also comma-separated: parents, time, limit, retry, server-busy */
                hold?: string[];
                /** @description A batch's id: only its tasks */
                batch?: string;
                /** @description A recurring schedule's id: only the tasks it submitted */
                schedule?: string;
                /** @description The name of a project of the queue surface */
                project?: string;
                /** @description A part of the error; the case of the letters A to Z does not matter */
                error?: string;
                /** @description Fingerprint of the error, from `GET /api/errors` */
                shape?: string;
                /** @description The last attempt has this number, or higher */
                attempts?: number;
                /** @description Concurrency key */
                key?: string;
                /** @description Beginning of the task's id */
                id?: string;
                /** @description From the first start to the end, or until now: seconds, or as in `90s`, `5m`, `1h` */
                minRun?: string;
                /** @description Submitted at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                createdAfter?: number | string;
                /** @description The same as `createdAfter`: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                createdSince?: number | string;
                /** @description Submitted before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                createdBefore?: number | string;
                /** @description First started at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                startedSince?: number | string;
                /** @description First started before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                startedBefore?: number | string;
                /** @description Ended at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                endedSince?: number | string;
                /** @description Ended before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                endedBefore?: number | string;
                /** @description Last changed at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                updatedSince?: number | string;
                /** @description Last changed before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                updatedBefore?: number | string;
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description `created`, `ended` or `duration`, which lists only tasks that ended; `-` before it: descending */
                sort?: "created" | "-created" | "ended" | "-ended" | "duration" | "-duration";
                /** @description Also count all tasks that match, up to 10,000: `total` */
                count?: boolean;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of tasks, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskPage"];
                };
            };
        };
    };
    countTasks: {
        parameters: {
            query?: {
                /** @description One or more statuses, also comma-separated */
                status?: string[];
                /** @description One or more types, also comma-separated */
                type?: string[];
                /** @description One or more pools, also comma-separated */
                pool?: string[];
                /** @description Servers that run the task, or ran it last; empty: none has */
                server?: string[];
                /** @description One or more priorities, also comma-separated */
                priority?: string[];
                /** @description One or more kinds of failure, also comma-separated */
                kind?: string[];
                /** @description What waiting tasks wait for, also comma-separated: parents, time, limit, retry, server-busy */
                hold?: string[];
                /** @description A batch's id: only its tasks */
                batch?: string;
                /** @description A recurring schedule's id: only the tasks it submitted */
                schedule?: string;
                /** @description The name of a project of the queue surface */
                project?: string;
                /** @description A part of the error; the case of the letters A to Z does not matter */
                error?: string;
                /** @description Fingerprint of the error, from `GET /api/errors` */
                shape?: string;
                /** @description The last attempt has this number, or higher */
                attempts?: number;
                /** @description Concurrency key */
                key?: string;
                /** @description Beginning of the task's id */
                id?: string;
                /** @description From the first start to the end, or until now: seconds, or as in `90s`, `5m`, `1h` */
                minRun?: string;
                /** @description Submitted at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                createdAfter?: number | string;
                /** @description The same as `createdAfter`: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                createdSince?: number | string;
                /** @description Submitted before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                createdBefore?: number | string;
                /** @description First started at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                startedSince?: number | string;
                /** @description First started before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                startedBefore?: number | string;
                /** @description Ended at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                endedSince?: number | string;
                /** @description Ended before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                endedBefore?: number | string;
                /** @description Last changed at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                updatedSince?: number | string;
                /** @description Last changed before this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                updatedBefore?: number | string;
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description Count by this */
                by?: "status" | "type" | "pool" | "server" | "owner" | "kind" | "hold";
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description How many tasks match */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskCounts"];
                };
            };
        };
    };
    listEvents: {
        parameters: {
            query?: {
                /** @description Only events after this sequence, or after the id of a pushed event */
                after?: string;
                /** @description Newest first: only events before this sequence; `end`: the last ones */
                before?: string;
                /** @description One or more names of events: the value of their `type` */
                event?: string[];
                /** @description False: the sizes of bodies instead of the bodies */
                bodies?: boolean;
                /** @description Most entries on a page */
                limit?: number;
            };
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of events, oldest or newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["EventPage"];
                };
            };
        };
    };
    getWhy: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description What the task waits for, where it runs, or how it ended */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WhyAnswer"];
                };
            };
        };
    };
    submitBatch: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": (components["schemas"]["BatchItem"] | ({
                    attempts?: never;
                    concurrencyKey?: never;
                    deadline?: never;
                    delay?: never;
                    dependsOn?: never;
                    expiresAt?: never;
                    onParentFailure?: never;
                    payload?: never;
                    prefer?: never;
                    priority?: never;
                    require?: never;
                    runAt?: never;
                    timeout?: never;
                    type?: never;
                } & {
                    [key: string]: unknown;
                }))[];
            };
        };
        responses: {
            /** @description The ids of the batch and of its tasks */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchAnswer"];
                };
            };
        };
    };
    listBatches: {
        parameters: {
            query?: {
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description Also count the tasks by status */
                counts?: boolean;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of batches, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchPage"];
                };
            };
        };
    };
    getBatch: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A batch's id, from the answer to its submission */
                batch_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The batch as it is now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchSummary"];
                };
            };
        };
    };
    deleteBatch: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A batch's id, from the answer to its submission */
                batch_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description How many tasks changed, and why the others did not */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BulkAnswer"];
                };
            };
        };
    };
    listBatchTasks: {
        parameters: {
            query?: {
                /** @description One or more statuses, also comma-separated */
                status?: string[];
                /** @description Also return the results of tasks that ended */
                results?: boolean;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path: {
                /** @description A batch's id, from the answer to its submission */
                batch_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of its tasks, in the order in which they were sent */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchTaskPage"];
                };
            };
        };
    };
    cancelBatch: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A batch's id, from the answer to its submission */
                batch_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description How many tasks changed, and why the others did not */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BulkAnswer"];
                };
            };
        };
    };
    retryBatch: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A batch's id, from the answer to its submission */
                batch_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description How many tasks changed, and why the others did not */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BulkAnswer"];
                };
            };
        };
    };
    cancelTasks: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["BulkBody"];
            };
        };
        responses: {
            /** @description How many tasks changed, and why the others did not */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BulkAnswer"];
                };
            };
        };
    };
    retryTasks: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["BulkBody"];
            };
        };
        responses: {
            /** @description How many tasks changed, and why the others did not */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BulkAnswer"];
                };
            };
        };
    };
    deleteTasks: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["BulkBody"];
            };
        };
        responses: {
            /** @description How many tasks changed, and why the others did not */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BulkAnswer"];
                };
            };
        };
    };
    listFiles: {
        parameters: {
            query?: {
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description What the file is for: up to 64 letters, digits, dashes and underscores */
                purpose?: string;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of files, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["FilesPage"];
                };
            };
        };
    };
    uploadFile: {
        parameters: {
            query?: {
                /** @description The name of the file; default: as the request says */
                name?: string;
                /** @description The media type of the file, as in `image/png`; default: as the request says */
                type?: string;
                /** @description What the file is for: up to 64 letters, digits, dashes and underscores */
                purpose?: string;
                /** @description When the file is deleted: ISO 8601, or milliseconds. It is kept until then */
                expiresAt?: string;
                /** @description The same from now: seconds, or text as in `90s`, `5m`, `1.5h`, `2d` */
                expiresIn?: string;
                /** @description SHA-256 of the bytes, hex: others are refused, as with `Repr-Digest` */
                sha256?: string;
            };
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/octet-stream": string;
                "multipart/form-data": {
                    /** Format: binary */
                    file: string;
                    name?: string;
                    type?: string;
                    purpose?: string;
                    expiresAt?: string;
                    expiresIn?: string;
                    sha256?: string;
                };
            };
        };
        responses: {
            /** @description The file; it is on disk */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["FileSummary"];
                };
            };
        };
    };
    deleteFile: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A file's id, from the answer to its upload */
                file_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The file is deleted */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DoneAnswer"];
                };
            };
        };
    };
    getFileInfo: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A file's id, from the answer to its upload */
                file_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The file, without its bytes */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["FileSummary"];
                };
            };
        };
    };
    linkFile: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A file's id, from the answer to its upload */
                file_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["FileLinkBody"];
            };
        };
        responses: {
            /** @description The link */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["FileLink"];
                };
            };
        };
    };
    queueChapters: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path: {
                /** @description A project's name: any text, percent-encoded */
                name: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ChaptersBody"];
            };
        };
        responses: {
            /** @description The task's id */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QueueSubmitted"];
                };
            };
        };
    };
    queueOutline: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path: {
                /** @description A project's name: any text, percent-encoded */
                name: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["OutlineBody"];
            };
        };
        responses: {
            /** @description The task's id */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QueueSubmitted"];
                };
            };
        };
    };
    listQueued: {
        parameters: {
            query?: {
                /** @description Most tasks on a page that have not ended */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Tasks that have not ended, and those that ended within the last hour */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QueueTasksAnswer"];
                };
            };
        };
    };
    getQueued: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task as it is now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["QueueTaskAnswer"];
                };
            };
        };
    };
    deleteQueued: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task is in no list any more */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Done"];
                };
            };
        };
    };
    cancelQueued: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task has ended */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Done"];
                };
            };
        };
    };
    streamTask: {
        parameters: {
            query?: {
                /** @description Like `Last-Event-ID`, without headers; the header wins */
                after?: string;
                /** @description A token of POST /api/stream-tokens */
                token?: string;
            };
            header?: {
                /** @description The last id received; the stream resumes after it */
                "Last-Event-ID"?: string;
            };
            path: {
                /** @description A task's id, from the answer to its submission */
                task_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Server-sent events */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": components["schemas"]["StreamMessage"];
                };
            };
        };
    };
    makeStreamToken: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A token and when it expires */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["StreamToken"];
                };
            };
        };
    };
    listServers: {
        parameters: {
            query?: {
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
                /** @description True: the removed servers, with `removed`, instead of the registered ones */
                removed?: boolean;
                /** @description With `removed`: removed at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                since?: number | string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of servers, by id */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ServerPage"];
                };
            };
        };
    };
    registerServer: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["RegisterBody"];
            };
        };
        responses: {
            /** @description The server is registered; its first check has started */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["RegisterAnswer"];
                };
            };
        };
    };
    getServer: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A server's id, as registered */
                server_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The server's present state */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ServerSummary"] | components["schemas"]["ShortServer"];
                };
            };
        };
    };
    removeServer: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A server's id, as registered */
                server_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The server is removed */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DoneAnswer"];
                };
            };
        };
    };
    changeServer: {
        parameters: {
            query?: never;
            header?: {
                /** @description The `ETag` of an answer: the change is made only if the settings are still those; else a 412 */
                "If-Match"?: string;
            };
            path: {
                /** @description A server's id, as registered */
                server_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ServerPatch"];
            };
        };
        responses: {
            /** @description The server's present state */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ServerSummary"];
                };
            };
        };
    };
    setMaintenance: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A server's id, as registered */
                server_id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["MaintenanceBody"];
            };
        };
        responses: {
            /** @description Maintenance has begun or ended */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["MaintenanceAnswer"];
                };
            };
        };
    };
    drainServer: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A server's id, as registered */
                server_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description How many tasks the server still runs */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DrainAnswer"];
                };
            };
        };
    };
    resumeServer: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A server's id, as registered */
                server_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description The server gets tasks again */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["MaintenanceAnswer"];
                };
            };
        };
    };
    takeAttempts: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["TakeBody"];
            };
        };
        responses: {
            /** @description The attempts, perhaps none */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TakeAnswer"];
                };
            };
        };
    };
    renewAttempt: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description An attempt's id, from the answer to `POST /api/attempts/take` */
                attempt_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description What has become of the attempt */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PulledStanding"];
                };
            };
        };
    };
    reportProgress: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description An attempt's id, from the answer to `POST /api/attempts/take` */
                attempt_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["PulledProgress"];
            };
        };
        responses: {
            /** @description What has become of the attempt */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PulledStanding"];
                };
            };
        };
    };
    finishAttempt: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description An attempt's id, from the answer to `POST /api/attempts/take` */
                attempt_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["PulledResult"];
            };
        };
        responses: {
            /** @description What has become of the attempt */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PulledStanding"];
                };
            };
        };
    };
    reportFailure: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description An attempt's id, from the answer to `POST /api/attempts/take` */
                attempt_id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["PulledFailure"];
            };
        };
        responses: {
            /** @description What has become of the attempt */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PulledStanding"];
                };
            };
        };
    };
    releaseAttempt: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description An attempt's id, from the answer to `POST /api/attempts/take` */
                attempt_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description What has become of the attempt */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PulledStanding"];
                };
            };
        };
    };
    getType: {
        parameters: {
            query?: {
                /** @description True: with `use`, what tasks of the type do now; admins and auditors only */
                use?: boolean;
            };
            header?: never;
            path: {
                /** @description A type's name: letters, digits, dots, dashes and underscores */
                name: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The type's settings */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TypeSummary"];
                };
            };
        };
    };
    putType: {
        parameters: {
            query?: never;
            header?: {
                /** @description The `ETag` of an answer: the change is made only if the settings are still those; else a 412 */
                "If-Match"?: string;
            };
            path: {
                /** @description A type's name: letters, digits, dots, dashes and underscores */
                name: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["TypeBody"];
            };
        };
        responses: {
            /** @description The type's settings */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TypeSummary"];
                };
            };
        };
    };
    deleteType: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A type's name: letters, digits, dots, dashes and underscores */
                name: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The type is deleted */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TypeDone"];
                };
            };
        };
    };
    listTypes: {
        parameters: {
            query?: {
                /** @description True: with `use`, what tasks of the type do now; admins and auditors only */
                use?: boolean;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of types, by name */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TypePage"];
                };
            };
        };
    };
    listWebhooks: {
        parameters: {
            query?: {
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description True: with `counts` and `lagSeconds` of each */
                counts?: boolean;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of webhooks, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookPage"];
                };
            };
        };
    };
    registerWebhook: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["WebhookBody"];
            };
        };
        responses: {
            /** @description The webhook and its secret, which is not shown again */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookSecret"];
                };
            };
        };
    };
    getWebhook: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The webhook's present state */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookSummary"];
                };
            };
        };
    };
    deleteWebhook: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The webhook is deleted */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DoneAnswer"];
                };
            };
        };
    };
    changeWebhook: {
        parameters: {
            query?: never;
            header?: {
                /** @description The `ETag` of an answer: the change is made only if the settings are still those; else a 412 */
                "If-Match"?: string;
            };
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["WebhookChange"];
            };
        };
        responses: {
            /** @description The webhook's present state */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookSummary"];
                };
            };
        };
    };
    rotateSecret: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The new secret, which is not shown again */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookSecret"];
                };
            };
        };
    };
    sendTest: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The delivery, which is sent now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliverySummary"];
                };
            };
        };
    };
    listDeliveries: {
        parameters: {
            query?: {
                /** @description waiting, delivered or failed */
                status?: string;
                /** @description Only deliveries created at or after this instant: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d` */
                since?: number | string;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of deliveries, the last changed first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliveryPage"];
                };
            };
        };
    };
    getDelivery: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
                /** @description A delivery's id, from the list of deliveries */
                delivery_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The delivery's present state */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliverySummary"];
                };
            };
        };
    };
    retryDelivery: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A webhook's id, from the answer to its registration */
                webhook_id: string;
                /** @description A delivery's id, from the list of deliveries */
                delivery_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The delivery, which is sent again now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DeliverySummary"];
                };
            };
        };
    };
    listSchedules: {
        parameters: {
            query?: {
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description True: only those whose last run was refused, or has a task that failed */
                failing?: boolean;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of schedules, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["SchedulePage"];
                };
            };
        };
    };
    createSchedule: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["ScheduleBody"];
            };
        };
        responses: {
            /** @description The schedule, and its next runs */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleDetail"];
                };
            };
        };
    };
    previewSchedule: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["PreviewBody"];
            };
        };
        responses: {
            /** @description Its next runs */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["SchedulePreview"];
                };
            };
        };
    };
    listRuns: {
        parameters: {
            query?: {
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of runs, the last one first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleRunPage"];
                };
            };
        };
    };
    getSchedule: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The schedule as it is now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleDetail"];
                };
            };
        };
    };
    deleteSchedule: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The schedule is gone */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["DoneAnswer"];
                };
            };
        };
    };
    changeSchedule: {
        parameters: {
            query?: never;
            header?: {
                /** @description The `ETag` of an answer: the change is made only if the settings are still those; else a 412 */
                "If-Match"?: string;
            };
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ScheduleChange"];
            };
        };
        responses: {
            /** @description The schedule as it is now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleDetail"];
                };
            };
        };
    };
    pauseSchedule: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description The schedule, paused */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleDetail"];
                };
            };
        };
    };
    resumeSchedule: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The schedule, and its next runs */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleDetail"];
                };
            };
        };
    };
    runSchedule: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path: {
                /** @description A schedule's id, from the answer to its creation */
                schedule_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The task, submitted */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ScheduleRun"];
                };
            };
        };
    };
    getMe: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The caller */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Me"];
                };
            };
        };
    };
    listKeys: {
        parameters: {
            query?: {
                /** @description One user; `*`: all. Admins and auditors only, who see all by default */
                owner?: string;
                /** @description Largest number of entries on a page */
                limit?: number;
                /** @description `nextCursor` of the previous page */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of keys, newest first */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["KeyPage"];
                };
            };
        };
    };
    createKey: {
        parameters: {
            query?: never;
            header?: {
                /** @description 1 to 255 printable characters. The same key and body always get the same answer */
                "Idempotency-Key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["KeyBody"];
            };
        };
        responses: {
            /** @description The key, which is not shown again */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["NewKey"];
                };
            };
        };
    };
    getKey: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A key's id, from the answer to its creation */
                key_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The key as it is now, without its text */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["KeySummary"];
                };
            };
        };
    };
    revokeKey: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description A key's id, from the answer to its creation */
                key_id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["ReasonBody"];
            };
        };
        responses: {
            /** @description The key works nowhere any more */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["RevokedKey"];
                };
            };
        };
    };
}
