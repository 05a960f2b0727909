defmodule Sango do
  @moduledoc """
  Draws pictures and makes videos from sentences, and answers questions about videos and pictures, on this machine,
  inside this VM.

  Put an instance into your supervision tree:

      children = [
        {Sango, models_dir: "models", data_dir: "data"},
        ...
      ]

  hand in a job, and watch it being drawn:

      {:ok, %{"id" => id}} = Sango.submit(%{kind: "image", prompt: "a large red circle on a blue background"})
      :ok = Sango.subscribe(id)

      receive do
        {:sango, :event, ^id, %{"event" => "progress", "data" => %{"step" => step}}} -> step
      end

      {:ok, %{"state" => "finished"}} = Sango.await(id)
      {:ok, {%{"content_type" => "image/png"}, bytes}} = Sango.read_result(id)

  A question about a video is answered word by word, in events called `token`:

      {:ok, %{"id" => id}} =
        Sango.submit(%{kind: "understand", question: "What happens?", media: {:file, "clip.mp4"}})

      :ok = Sango.subscribe(id)

      receive do
        {:sango, :event, ^id, %{"event" => "token", "data" => %{"text" => text, "index" => 0}}} -> text
      end

      {:ok, %{"result" => %{"text" => answer}}} = Sango.await(id)

  A pipeline does all three: it reads a clip, draws a picture of what was understood, and makes a new video of both:

      {:ok, %{"id" => id}} = Sango.submit(%{kind: "pipeline", media: {:file, "clip.mp4"}})
      {:ok, %{"result" => %{"content_type" => "video/mp4", "text" => caption}}} = Sango.await(id, :timer.minutes(10))
      {:ok, %{"path" => picture}} = Sango.stage_result(id, "image")

  Jobs, events and errors are the JSON of `docs/protocol.md`, as maps with string keys. Jobs are kept on disk: they
  survive a crash of any process and a restart of the node, and those that were running run again.

  Every function takes `name:` among its options when the instance is not called `Sango`. While an instance is starting
  or stopping, its functions give `{:error, %Sango.Error{code: "shutting_down"}}`.
  """

  alias Sango.{Config, Engine, Error, Feeds, Native, Queue, Watcher}

  @typedoc "A job's id, as in `job[\"id\"]`."
  @type id :: String.t()
  @typedoc "A job as `docs/protocol.md` shows it."
  @type job :: %{String.t() => term}
  @typedoc "An event of a job: `\"n\"`, `\"job\"`, `\"event\"`, `\"at\"`, `\"data\"`."
  @type event :: %{String.t() => term}
  @typedoc "`name:` is the instance, `Sango` by default."
  @type options :: [name: atom]
  @type result(value) :: {:ok, value} | {:error, Error.t()}

  @doc "The specification of an instance in a supervision tree. For the options see `Sango.Config`."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: Keyword.get(options, :name, Sango), start: {Sango, :start_link, [options]}, type: :supervisor}
  end

  @doc """
  Starts an instance, linked to the calling process.

  Raises `ArgumentError` for a wrong option; fails when the data folder cannot be used.
  """
  @spec start_link(keyword) :: Supervisor.on_start()
  def start_link(options), do: Sango.Supervisor.start_link(options)

  @doc """
  Hands in a job. It is stored when this returns.

  `request` is the job of `docs/protocol.md`, with string or atom keys; `image` and `mask` are base64 or `{:bytes, binary}`;
  `media` is one of these, `{:file, path}` (of which the engine takes a copy) or `%{sha256: hash}` of a file that another
  job has brought, or a list of such.

  Options:

    * `:client` - any term: jobs of different clients take turns, and each client has its own bound. By default the
      asking process
    * `:asker` - the process the job is for, by default the calling one. When it dies, the job is cancelled
    * `:detached` - `true`: the job belongs to no process and goes on by itself
    * `:name` - the instance

  Errors: `invalid_request`, `invalid_option`, `invalid_media`, `too_large`, `unknown_model`, `queue_full`,
  `idempotency_conflict`, `storage`, …; each says what to do.
  """
  @spec submit(map, keyword) :: result(job)
  def submit(request, options \\ []) do
    with {:ok, job, _created?} <- submit_with_status(request, options), do: {:ok, job}
  end

  @doc "Like `submit/2`, and says whether the job is new, and not that of a known idempotency key."
  @spec submit_with_status(map, keyword) :: {:ok, job, created? :: boolean} | {:error, Error.t()}
  def submit_with_status(request, options \\ []) do
    options = Keyword.validate!(options, name: Sango, client: nil, asker: self(), detached: false)
    asker = if options[:detached], do: :detached, else: options[:asker]

    if not (asker == :detached or is_pid(asker)),
      do: raise(ArgumentError, "Sango: option :asker is not a pid")

    ticket = %{client: options[:client] || options[:asker], asker: asker}
    with {:ok, {job, created?}} <- Queue.submit(options[:name], request, ticket), do: {:ok, job, created?}
  end

  @doc "A job. Errors: `unknown_job`, as in every function that takes an id."
  @spec get(id, options) :: result(job)
  def get(id, options \\ []), do: call(options, :get, [id])

  @doc """
  Cancels a job that has not ended; one that has stays as it is. A run stops at its next step, unless other jobs share
  it.
  """
  @spec cancel(id, options) :: result(job)
  def cancel(id, options \\ []), do: call(options, :cancel, [id])

  @doc """
  Jobs, newest first: `%{"jobs" => [job], "next" => id | nil}`.

  `query` may have `:state`, `:limit` (1 to 200, by default 50) and `:before` (the last page's `"next"`).
  """
  @spec list(map, options) :: result(%{String.t() => [job] | id | nil})
  def list(query \\ %{}, options \\ []), do: call(options, :list, [query])

  @doc "The stored events of a job after number `n`."
  @spec events_after(id, non_neg_integer, options) :: result([event])
  def events_after(id, n, options \\ []), do: call(options, :events_after, [id, n])

  @doc """
  Subscribes the calling process to a job's events after number `after:` (0 by default).

  It is sent `{:sango, :event, id, event}` for each event, once and in order, first the stored ones and then the live
  ones, and `{:sango, :end, id}` when nothing will follow. A process is subscribed to a job once: subscribing again
  starts over after the new number.
  """
  @spec subscribe(id, keyword) :: :ok | {:error, Error.t()}
  def subscribe(id, options \\ []) do
    options = Keyword.validate!(options, name: Sango, after: 0)
    n = options[:after]

    if not (is_integer(n) and n >= 0),
      do: raise(ArgumentError, "Sango: option :after is not a number of an event")

    Feeds.subscribe(options[:name], id, n)
  end

  @doc "Ends the calling process's subscription. Messages that it has been sent already stay in its mailbox."
  @spec unsubscribe(id, options) :: :ok
  def unsubscribe(id, options \\ []), do: Feeds.unsubscribe(name(options), id)

  @doc """
  From now on the calling process is sent `{:sango, :job, job}` whenever a job's state or progress changes, and
  `{:sango, :lagged, n}` when some of that has been left out: `list/2` tells how things are.
  """
  @spec watch(options) :: :ok
  def watch(options \\ []), do: Watcher.watch(name(options))

  @doc "Ends `watch/1`."
  @spec unwatch(options) :: :ok
  def unwatch(options \\ []), do: Watcher.unwatch(name(options))

  @doc """
  Waits until a job has ended, at most `timeout` milliseconds, and gives it back, whether it `finished`, `failed` or was
  `cancelled`.

  Errors: `not_finished` when the time is over; the job goes on.
  """
  @spec await(id, timeout, options) :: result(job)
  def await(id, timeout \\ 60_000, options \\ []) do
    name = name(options)

    # In a process of its own, so that the caller's mailbox and subscriptions stay untouched.
    task = Task.Supervisor.async_nolink(Sango.Supervisor.via(name, :tasks), fn -> await_end(name, id) end)

    case Task.yield(task, timeout) || Task.shutdown(task, :brutal_kill) do
      {:ok, result} ->
        result

      nil ->
        {:error, Error.new({"not_finished", "the job has not ended after #{timeout} ms: it goes on", 409})}

      {:exit, _reason} ->
        {:error, Error.shutting_down("the instance was stopped while the job was awaited")}
    end
  catch
    :exit, {:noproc, _} ->
      {:error, Error.shutting_down("no instance is running under the name #{inspect(name(options))}")}
  end

  @doc """
  The file of a finished job: `"path"`, `"content_type"`, `"bytes"` (its size) and `"sha256"`.

  Errors: `not_finished`, `no_result` (it failed or was cancelled), `expired`.
  """
  @spec result(id, options) :: result(%{String.t() => term})
  def result(id, options \\ []), do: call(options, :result, [id])

  @doc """
  What a stage of a `pipeline` job has made (`"understand"`, `"image"` or `"video"`), as soon as it has; with the fields
  of `result/2`.

  Errors: `not_found` when the job has no such stage; as `result/2`.
  """
  @spec stage_result(id, String.t(), options) :: result(%{String.t() => term})
  def stage_result(id, stage, options \\ []), do: call(options, :stage_result, [id, stage])

  @doc """
  The file of a video or picture that an `understand` or `pipeline` job is about, counted from 0; with the fields of
  `result/2`.

  Errors: `not_found` when the job has none of this number, `expired`.
  """
  @spec media(id, non_neg_integer, options) :: result(%{String.t() => term})
  def media(id, index, options \\ []), do: call(options, :media, [id, index])

  @doc "Like `result/2`, with the file's bytes."
  @spec read_result(id, options) :: result({%{String.t() => term}, binary})
  def read_result(id, options \\ []), do: call(options, :read_result, [id])

  @doc "The models that jobs can name."
  @spec models(options) :: result([%{String.t() => term}])
  def models(options \\ []), do: call(options, :models, [])

  @doc "Loads a model now, and not with its first job. Errors: `unknown_model`, `model_broken`."
  @spec load_model(String.t(), options) :: result(%{String.t() => term})
  def load_model(model, options \\ []), do: call(options, :load_model, [model])

  @doc "Frees a model's memory once no run uses it. It is loaded again with its next job."
  @spec unload_model(String.t(), options) :: result(%{String.t() => term})
  def unload_model(model, options \\ []), do: call(options, :unload_model, [model])

  @doc "Whether a job handed in now would run. Errors say why not: `no_model`, `shutting_down`, `storage`."
  @spec ready(options) :: :ok | {:error, Error.t()}
  def ready(options \\ []), do: call(options, :ready, [])

  @doc "Counts for the operator: jobs by state, submissions, runs, cache hits, memory and threads."
  @spec stats(options) :: result(%{String.t() => term})
  def stats(options \\ []), do: call(options, :stats, [])

  @doc "The waiting jobs with their clients, in the order in which they will run."
  @spec waiting(options) :: result([%{id: id, client: term, priority: integer}])
  def waiting(options \\ []), do: Queue.waiting(name(options))

  @doc "Every error code with its HTTP status."
  @spec error_table() :: [{code :: String.t(), status :: pos_integer}]
  def error_table, do: Native.error_table()

  @doc "The OpenAPI description of the HTTP API that goes with these functions, as JSON text."
  @spec openapi() :: String.t()
  def openapi, do: Native.openapi()

  @doc "The version of the engine."
  @spec version() :: String.t()
  def version, do: Native.version()

  @doc "The options of an instance with the defaults filled in. Raises `ArgumentError` for a wrong one."
  @spec config!(keyword) :: Config.t()
  def config!(options), do: Config.new!(options)

  defp call(options, function, arguments), do: Engine.call(name(options), function, arguments)
  defp name(options), do: options |> Keyword.validate!(name: Sango) |> Keyword.fetch!(:name)

  defp await_end(name, id) do
    with {:ok, %{"last_event" => n}} <- get(id, name: name),
         # Only the last event matters; one that has happened already is told at once.
         :ok <- subscribe(id, name: name, after: n) do
      receive do
        {:sango, :end, ^id} -> get(id, name: name)
      end
    end
  end
end
