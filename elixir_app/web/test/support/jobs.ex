defmodule SangoWeb.Jobs do
  @moduledoc "Jobs of the tests."

  @doc "A job that nobody has asked for before."
  def fresh(options \\ %{}) do
    %{
      "kind" => "image",
      "prompt" => "a large red circle on a blue background",
      "options" => Map.put_new(options, "seed", System.unique_integer([:positive]))
    }
  end

  @doc "One that takes long: cancel it."
  def long, do: fresh(%{"steps" => 100, "width" => 256, "height" => 256})

  @doc "Draws a picture and gives back the finished job."
  def drawn do
    {:ok, %{"id" => id}} = Sango.submit(fresh(), detached: true)
    {:ok, %{"state" => "finished"} = job} = Sango.await(id)
    job
  end

  @doc "Hands in a long job, whose end comes with the test's."
  def submit_long do
    {:ok, job} = Sango.submit(long(), detached: true)
    ExUnit.Callbacks.on_exit(fn -> Sango.cancel(job["id"]) end)
    job
  end

  @doc "Waits until a job is in this state."
  def wait(id, state, tries \\ 500) do
    case Sango.get(id) do
      {:ok, %{"state" => ^state} = job} ->
        job

      {:ok, job} when tries == 0 ->
        raise "job #{id} is not #{state} but #{job["state"]}"

      {:ok, _} ->
        Process.sleep(10)
        wait(id, state, tries - 1)
    end
  end
end
