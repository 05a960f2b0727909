defmodule Sango.Native do
  @moduledoc """
  The engine in Rust (`native/nif`), as the functions of its NIF.

  Use `Sango` instead, unless you write a process tree of your own. Nothing here blocks a scheduler, and nothing raises:
  wrong arguments give `{:error, {"invalid_request", message, 400}}`.

  An engine belongs to the process named when it was opened. It closes by itself when that process dies or nobody
  holds the handle any more.
  """

  @behaviour Sango.Backend
  # The library is built after this module is compiled, so compiling must not load it.
  @compile {:autoload, false}
  @on_load :load

  @doc false
  def load do
    path = Application.app_dir(:engine, "priv/native/sango_nif")

    with {:error, {_kind, text}} <- :erlang.load_nif(String.to_charlist(path), 0) do
      # The module stays usable for its callers: each call says what is wrong, which a module that failed to load
      # cannot do.
      :persistent_term.put({__MODULE__, :load_error}, List.to_string(text))
      :ok
    end
  end

  @impl true
  def open(_options, _owner), do: not_loaded()
  @impl true
  def close(_engine), do: not_loaded()
  @impl true
  def submit(_engine, _request), do: not_loaded()
  @impl true
  def get(_engine, _id), do: not_loaded()
  @impl true
  def cancel(_engine, _id), do: not_loaded()
  @impl true
  def list(_engine, _query), do: not_loaded()
  @impl true
  def events_after(_engine, _id, _n), do: not_loaded()
  @impl true
  def subscribe(_engine, _id, _n, _pid, _tag), do: not_loaded()
  @impl true
  def watch(_engine, _pid, _tag), do: not_loaded()
  @impl true
  def unsubscribe(_subscription), do: not_loaded()
  @impl true
  def result(_engine, _id), do: not_loaded()
  @impl true
  def stage_result(_engine, _id, _stage), do: not_loaded()
  @impl true
  def media(_engine, _id, _index), do: not_loaded()
  @impl true
  def read_result(_engine, _id), do: not_loaded()
  @impl true
  def models(_engine), do: not_loaded()
  @impl true
  def load_model(_engine, _name), do: not_loaded()
  @impl true
  def unload_model(_engine, _name), do: not_loaded()
  @impl true
  def ready(_engine), do: not_loaded()
  @impl true
  def stats(_engine), do: not_loaded()
  @impl true
  def arrange(_engine, _ids), do: not_loaded()

  @doc "Every error code with its HTTP status."
  @spec error_table() :: [{code :: String.t(), status :: pos_integer}]
  def error_table, do: not_loaded()

  @doc "The OpenAPI description of the HTTP API, as JSON text."
  @spec openapi() :: String.t()
  def openapi, do: not_loaded()

  @doc "The version of the engine."
  @spec version() :: String.t()
  def version, do: not_loaded()

  @spec not_loaded() :: no_return
  defp not_loaded do
    why = :persistent_term.get({__MODULE__, :load_error}, "it was not loaded")
    :erlang.nif_error("the library of Sango.Native is missing or damaged (#{why}): run `mix compile`")
  end
end
