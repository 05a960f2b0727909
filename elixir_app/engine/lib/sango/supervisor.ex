defmodule Sango.Supervisor do
  @moduledoc """
  The processes of one instance.

      Sango.Supervisor
      ├── Sango.Engine      holds the engine in Rust; opens it again after a crash
      ├── Task.Supervisor   calls into the engine that must not hold up a process of this tree
      ├── Sango.Watcher     tells every job's changes to who asked for them
      ├── Sango.Queue       admission, fair order, cancelling for askers that die
      └── Sango.Feeds       one process per job that somebody follows

  Each child gets by without the others for a while, so that the crash of one does not take the others' clients with
  it: while the engine is away calls answer `shutting_down`, and subscriptions go on when it is back.

  What must outlive a child (who asked for a job, who follows one) is in a table that belongs to this supervisor.
  """

  use Supervisor

  alias Sango.Config

  @doc "Starts an instance. For the options see `Sango.Config`."
  @spec start_link(keyword) :: Supervisor.on_start()
  def start_link(options) do
    config = Config.new!(options)
    Supervisor.start_link(__MODULE__, config, name: via(config.name, :supervisor))
  end

  @doc false
  # The name of a process of an instance.
  def via(name, role), do: {:via, Registry, {Sango.Registry, {name, role}}}

  @impl true
  def init(%Config{} = config) do
    table = :ets.new(__MODULE__, [:ordered_set, :public, write_concurrency: true])

    children = [
      {Sango.Engine, config},
      {Task.Supervisor, name: via(config.name, :tasks)},
      {Sango.Watcher, config.name},
      {Sango.Queue, {config, table}},
      {Sango.Feeds, {config.name, table}}
    ]

    Supervisor.init(children, strategy: :one_for_one, max_restarts: 10, max_seconds: 10)
  end
end
