"""Types of the one door for drop-ins; written by tests/house/api_stub.py."""

from .compute.backend import (
    array_module as array_module,
)
from .compute.detector import (
    DetectorGeometry as DetectorGeometry,
    detector_to_scan as detector_to_scan,
    standard_annuli as standard_annuli,
)
from .compute.kernels import (
    VirtualDetectors as VirtualDetectors,
)
from .data.aberrations import (
    Aberrations as Aberrations,
    blur_radius as blur_radius,
    chi as chi,
    from_polar as from_polar,
    interaction as interaction,
    nion_control as nion_control,
    strehl as strehl,
    wavelength as wavelength,
)
from .data.assemble import (
    assemble as assemble,
    empty_map as empty_map,
    is_pixel as is_pixel,
)
from .data.axes import (
    Axis as Axis,
    Channel as Channel,
    StreamSpec as StreamSpec,
)
from .data.calibration import (
    Calibration as Calibration,
    CalibrationSet as CalibrationSet,
)
from .data.clock import (
    Clock as Clock,
    ManualClock as ManualClock,
    MonotonicClock as MonotonicClock,
    VirtualClock as VirtualClock,
)
from .data.commands import (
    AcquireReference as AcquireReference,
    AcquireSpectrum as AcquireSpectrum,
    Annotate as Annotate,
    ApplyPulse as ApplyPulse,
    Approach as Approach,
    BEPS as BEPS,
    Blank as Blank,
    Command as Command,
    Diffraction as Diffraction,
    EDS as EDS,
    EELS as EELS,
    ForceCurve as ForceCurve,
    IV as IV,
    Lift as Lift,
    MoveProbe as MoveProbe,
    MoveStage as MoveStage,
    Pause as Pause,
    Read as Read,
    Resume as Resume,
    Scan as Scan,
    ScanPath as ScanPath,
    SetAberrations as SetAberrations,
    SetBeam as SetBeam,
    SetBias as SetBias,
    SetDetector as SetDetector,
    SetDrive as SetDrive,
    SetFeedback as SetFeedback,
    SetOptics as SetOptics,
    SetPhasePlate as SetPhasePlate,
    SetShift as SetShift,
    SetSpectrometer as SetSpectrometer,
    Settle as Settle,
    Stop as Stop,
    Unblank as Unblank,
    VendorRoutine as VendorRoutine,
    Withdraw as Withdraw,
)
from .data.control import (
    Abort as Abort,
    Accepted as Accepted,
    AddPoint as AddPoint,
    Approve as Approve,
    Cost as Cost,
    Describe as Describe,
    Description as Description,
    Disable as Disable,
    Done as Done,
    Enable as Enable,
    Event as Event,
    Failed as Failed,
    Gap as Gap,
    Generation as Generation,
    Heartbeat as Heartbeat,
    Note as Note,
    Observed as Observed,
    Progress as Progress,
    Rearm as Rearm,
    Refused as Refused,
    ReleaseControl as ReleaseControl,
    Reload as Reload,
    Remark as Remark,
    Reply as Reply,
    Request as Request,
    Result as Result,
    Revision as Revision,
    Run as Run,
    SetBudget as SetBudget,
    SetParameters as SetParameters,
    SetReward as SetReward,
    Shutdown as Shutdown,
    StartRecording as StartRecording,
    StateChange as StateChange,
    StopRecording as StopRecording,
    TakeControl as TakeControl,
    Trace as Trace,
    Verdict as Verdict,
    Veto as Veto,
)
from .data.copying import (
    copy_into as copy_into,
)
from .data.driver import (
    Acquisition as Acquisition,
    Grid as Grid,
    Instrument as Instrument,
    InstrumentInfo as InstrumentInfo,
    detector_alone as detector_alone,
)
from .data.errors import (
    BusError as BusError,
    CalibrationError as CalibrationError,
    ContractError as ContractError,
    DriverError as DriverError,
    DropInError as DropInError,
    PlanError as PlanError,
    ProbeloopError as ProbeloopError,
    Problem as Problem,
    RecordError as RecordError,
    RefusedError as RefusedError,
    SettingsError as SettingsError,
    SharedMemoryError as SharedMemoryError,
    SourceError as SourceError,
    WireError as WireError,
)
from .data.frame import (
    BlockFlag as BlockFlag,
    FrameBlock as FrameBlock,
    FrameBuffer as FrameBuffer,
    FrameFlag as FrameFlag,
)
from .data.latency import (
    Histogram as Histogram,
    LOOP_STAGES as LOOP_STAGES,
    LOOP_TOTALS as LOOP_TOTALS,
    Timings as Timings,
    read_histograms as read_histograms,
)
from .data.limits import (
    Alarm as Alarm,
    Limits as Limits,
)
from .data.maps import (
    MapInput as MapInput,
    map_input as map_input,
)
from .data.processes import (
    is_alive as is_alive,
)
from .data.scan import (
    Position as Position,
    Region as Region,
    visit_order as visit_order,
)
from .data.settings import (
    Settings as Settings,
)
from .data.units import (
    convert as convert,
    display as display,
    quantity as quantity,
    to_si as to_si,
)
from .discover import (
    load_class as load_class,
    load_simulator as load_simulator,
)
from .plugin.contract import (
    Checkpoint as Checkpoint,
    Context as Context,
    FrameTransform as FrameTransform,
    JoinTransform as JoinTransform,
    NoParameters as NoParameters,
    Observation as Observation,
    Observe as Observe,
    Outputs as Outputs,
    Plan as Plan,
    PlanContext as PlanContext,
    PlanSteps as PlanSteps,
    Policy as Policy,
    Propose as Propose,
    Reduce as Reduce,
    Register as Register,
    Reward as Reward,
    Scalarizer as Scalarizer,
    ScanTransform as ScanTransform,
    Show as Show,
    Submit as Submit,
    Ticket as Ticket,
    Wait as Wait,
)
from .plugin.instance import (
    load_scalarizer as load_scalarizer,
)
from .record.reader import (
    open_session as open_session,
)
from .rig.client import (
    Connection as Connection,
    Events as Events,
    StopDoor as StopDoor,
)
